//! See `vmm::fuzzing::boot_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::fuzzing::boot_image(bytes));
