//! See `vmm::fuzzing::config_space`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::fuzzing::config_space(bytes));
