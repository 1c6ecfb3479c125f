//! See `vmm::fuzzing::virtqueue`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::fuzzing::virtqueue(bytes));
