//! See `vmm::fuzzing::region_info`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::fuzzing::region_info(bytes));
