//! See `vmm::fuzzing::cli`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::fuzzing::cli(bytes));
