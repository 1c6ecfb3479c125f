//! See `vmm::fuzzing::bus`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::fuzzing::bus(bytes));
