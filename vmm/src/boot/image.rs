//! Kernel files: the format of a file, and the parts of a bzImage.
//!
//! The file is untrusted: every offset is checked against its length. It stays on disk until [`super::loader`] reads it into guest
//! memory. Only its headers are in the VMM's own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::elf::{Elf, ElfError};

/// Offset of the setup header in a bzImage.
const SETUP_HEADER: usize = 0x1f1;
/// "HdrS", the magic number of a setup header.
const SETUP_HEADER_MAGIC: u32 = 0x5372_6448;
/// The first boot protocol version with a 64-bit entry (`xloadflags`).
const PROTOCOL_WITH_64_BIT_ENTRY: u16 = 0x020c;
/// `xloadflags`: the kernel has the 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// Bytes at the start of a file that tell its format.
const HEAD: usize = 1024;

/// A kernel file.
#[derive(Debug)]
pub struct Image {
    name: String,
    file: File,
    size: u64,
    kind: ImageKind,
}

/// The format of a kernel file.
#[derive(Debug, Clone)]
pub enum ImageKind {
    /// An uncompressed ELF kernel.
    Elf(Elf),
    /// A bzImage, with its setup header.
    BzImage(setup_header),
}

/// Why the VMM cannot boot a file.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file has neither magic number.
    #[error("not a Linux kernel: neither a bzImage (vmlinuz) nor an ELF file (vmlinux)")]
    Unrecognised,
    /// The ELF file cannot be booted.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The kernel has no 64-bit entry.
    #[error("not a 64-bit kernel: the bzImage has no 64-bit entry")]
    No64BitEntry,
    /// The file is truncated.
    #[error("the file is cut short")]
    Truncated,
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
}

impl ImageKind {
    fn of(file: &File, size: u64) -> Result<Self, ImageError> {
        let mut head = [0; HEAD];
        let length = usize::try_from(size).unwrap_or(HEAD).min(HEAD);
        let head = head.get_mut(..length).unwrap_or_default();
        file.read_exact_at(head, 0)?;
        if head.starts_with(b"\x7fELF") {
            return Ok(Self::Elf(Elf::parse(file)?));
        }
        let header = head.get(SETUP_HEADER..SETUP_HEADER + size_of::<setup_header>());
        let header = *header.and_then(setup_header::from_slice).ok_or(ImageError::Unrecognised)?;
        if header.header != SETUP_HEADER_MAGIC {
            return Err(ImageError::Unrecognised);
        }
        if header.version < PROTOCOL_WITH_64_BIT_ENTRY || header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(ImageError::No64BitEntry);
        }
        // `syssize` counts the protected-mode code in paragraphs of 16 bytes. The last paragraph may be short.
        let end = u64::from(header.syssize) * 16 + setup_size(&header);
        if end <= size.saturating_add(15) { Ok(Self::BzImage(header)) } else { Err(ImageError::Truncated) }
    }
}

/// Bytes of the real-mode part, including the boot sector. The protected-mode code follows.
fn setup_size(header: &setup_header) -> u64 {
    let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    (sectors + 1) * 512
}

impl Image {
    /// Detects the format of a kernel file. `name` is the argument and path, for messages.
    ///
    /// # Errors
    /// Why the file cannot be booted.
    pub fn open(name: String, file: File) -> Result<Self, ImageError> {
        let size = file.metadata()?.len();
        let kind = ImageKind::of(&file, size)?;
        Ok(Self { name, file, size, kind })
    }

    /// The argument and path, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file. Its position is arbitrary.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file's format.
    #[must_use]
    pub fn kind(&self) -> &ImageKind {
        &self.kind
    }

    /// Reads the compressed kernel in a bzImage (boot protocol 2.08: `payload_offset`, `payload_length`). Returns `None` if the
    /// header names none inside of the file.
    ///
    /// # Errors
    /// The host's error.
    pub fn payload(&self) -> io::Result<Option<Vec<u8>>> {
        let ImageKind::BzImage(header) = &self.kind else { return Ok(None) };
        let start = setup_size(header) + u64::from(header.payload_offset);
        let length = u64::from(header.payload_length);
        if length == 0 || start + length > self.size {
            return Ok(None);
        }
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut payload, start)?;
        Ok(Some(payload))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A bzImage with this payload and no code.
    pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
        let header = setup_header {
            setup_sects: 1,
            header: SETUP_HEADER_MAGIC,
            version: 0x020f,
            loadflags: 1,
            xloadflags: XLF_KERNEL_64,
            code32_start: 0x10_0000,
            syssize: u32::try_from(payload.len().div_ceil(16)).unwrap(),
            payload_offset: 0,
            payload_length: u32::try_from(payload.len()).unwrap(),
            ..Default::default()
        };
        let mut bytes = vec![0; 1024];
        bytes[SETUP_HEADER..SETUP_HEADER + size_of::<setup_header>()].copy_from_slice(header.as_slice());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// A kernel file with these contents.
    pub(crate) fn image(bytes: &[u8]) -> Result<Image, ImageError> {
        Image::open("--kernel test".into(), file(bytes))
    }

    /// An unnamed file with these contents.
    pub(crate) fn file(bytes: &[u8]) -> File {
        let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(memory);
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn a_bzimage_gives_its_payload() {
        let image = image(&bzimage(b"the compressed kernel")).unwrap();
        assert_eq!(image.payload().unwrap().unwrap(), b"the compressed kernel");
    }

    #[test]
    fn invalid_kernels_have_specific_errors() {
        let whole = bzimage(&[0; 4096]);
        let mut old = whole.clone();
        old[0x206..0x208].copy_from_slice(&0x0204u16.to_le_bytes());
        for (bytes, says) in [
            (&b"#!/bin/sh"[..], "not a Linux kernel"),
            (&[0; 4096], "not a Linux kernel"),
            (&whole[..2048], "cut short"),
            (&old, "no 64-bit entry"),
            (b"\x7fELF\x01", "another machine"),
        ] {
            let error = image(bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_payload_outside_of_the_file_is_none() {
        let mut bytes = bzimage(&[1; 64]);
        bytes[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(image(&bytes).unwrap().payload().unwrap(), None);
    }
}
