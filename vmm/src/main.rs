//! A minimal VMM that embeds vm-msi and boots Linux guests with passed-through devices.

fn main() {}
