//! Any bytes as an MSI-X function's state: it is restored as it is, or refused with nothing changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_msi::testing::restore_anything;

fuzz_target!(|bytes: &[u8]| {
    let Some((vectors, bytes)) = bytes.split_first() else { return };
    if let Ok(state) = postcard::from_bytes(bytes) {
        let _ = restore_anything(u16::from(vectors % 80) + 1, &state);
    }
});
