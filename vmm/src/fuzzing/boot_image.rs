//! Kernel files: bzImages, ELF files with PVH notes, and compressed payloads.
//!
//! Promise: a file is loaded or refused with one line, and only into guest memory. The payload unpacks to no more than that memory.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};

use super::file;
use crate::boot::image::Image;
use crate::boot::loader;
use crate::cli::Unpack;

/// Guest memory in bytes.
const MEMORY: usize = 8 << 20;
const SETUP_HEADER: usize = 0x1f1;

/// A first byte of 0 is followed by a kernel file. Any other is followed by the payload of a bzImage.
///
/// # Panics
/// A promise is broken.
pub fn boot_image(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let image = if *first == 0 { file(rest) } else { file(&bzimage(rest)) };
    let image = match Image::open("--kernel fuzzed".to_owned(), image) {
        Ok(image) => image,
        Err(error) => return assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("guest memory");
    for unpack in [Unpack::Host, Unpack::Guest] {
        match loader::load(&memory, &image, unpack, None) {
            Ok(entry) => assert!(entry.start.address().0 < MEMORY as u64, "{entry:?}"),
            Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
        }
    }
}

/// A bzImage with this payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let header = setup_header {
        setup_sects: 1,
        header: 0x5372_6448,
        version: 0x020f,
        loadflags: 1,
        xloadflags: 1,
        code32_start: 0x10_0000,
        syssize: u32::try_from(payload.len().div_ceil(16)).unwrap_or(u32::MAX),
        payload_length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        ..Default::default()
    };
    let mut bytes = vec![0; 1024];
    bytes[SETUP_HEADER..][..size_of::<setup_header>()].copy_from_slice(header.as_slice());
    bytes.extend_from_slice(payload);
    bytes
}
