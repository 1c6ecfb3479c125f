//! Configuration spaces of devices that lie: lists that loop and overlap, and registers that change between two reads.
//!
//! Promise: every list that the guest sees ends, no emulated register reaches the device, no register between capabilities is lost,
//! and a reset restores what the guest sees.

use crate::vfio::fuzzed_config_space;

/// Bytes of the part that the bytes describe, and of the conventional space.
const EXTENDED: usize = 4096;
const CONVENTIONAL: usize = 256;

/// The first byte says whether the device has extended space. Groups of 3 bytes follow: an offset and a value. An offset with the
/// highest bit is a change that comes after the device was looked at.
///
/// # Panics
/// A promise is broken.
pub fn config_space(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut found = vec![0; if first & 1 == 0 { EXTENDED } else { CONVENTIONAL }];
    let mut changes = Vec::new();
    for [low, high, value] in rest.as_chunks().0 {
        let offset = u16::from_le_bytes([*low, *high]);
        let at = usize::from(offset & 0x7fff) % found.len();
        if offset & 0x8000 == 0 {
            found[at] = *value;
        } else {
            changes.push((at, *value));
        }
    }
    fuzzed_config_space(&found, &changes);
}
