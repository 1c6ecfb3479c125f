//! See `vmm::fuzzing::boot_disk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::fuzzing::boot_disk(bytes));
