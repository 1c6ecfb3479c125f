//! The few devices of the machine that are not on the PCI bus and not the serial port.

pub mod ioapic;
pub mod power;
