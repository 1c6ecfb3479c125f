//! Kernel files: the format of a file, and the parts of a bzImage.
//!
//! The file is untrusted: every offset is checked against its length.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

/// Offset of the setup header in a bzImage.
const SETUP_HEADER: usize = 0x1f1;
/// "HdrS", the magic number of a setup header.
const SETUP_HEADER_MAGIC: u32 = 0x5372_6448;
/// The first boot protocol version with a 64-bit entry (`xloadflags`).
const PROTOCOL_WITH_64_BIT_ENTRY: u16 = 0x020c;
/// `xloadflags`: the kernel has the 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// ELF machine type of x86-64.
const EM_X86_64: u16 = 62;
/// ELF types: executable, and shared object (a position-independent kernel).
const ELF_TYPES: [u16; 2] = [2, 3];

/// A kernel file in memory.
#[derive(Debug)]
pub struct Image {
    name: String,
    bytes: Vec<u8>,
    kind: ImageKind,
}

/// The format of a kernel file.
#[derive(Debug, Clone, Copy)]
pub enum ImageKind {
    /// An uncompressed ELF kernel.
    Elf,
    /// A bzImage, with its setup header.
    BzImage(setup_header),
}

/// Why the VMM cannot boot a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file has neither magic number.
    #[error("not a Linux kernel: neither a bzImage (vmlinuz) nor an ELF file (vmlinux)")]
    Unrecognised,
    /// The ELF file has another machine, class or type.
    #[error("not a kernel for x86-64: an ELF file of another machine, class or type")]
    OtherElf,
    /// The kernel has no 64-bit entry.
    #[error("not a 64-bit kernel: the bzImage has no 64-bit entry")]
    No64BitEntry,
    /// The file is truncated.
    #[error("the file is cut short")]
    Truncated,
}

impl ImageKind {
    /// Detects the format from the file's contents.
    ///
    /// # Errors
    /// Why the file cannot be booted.
    pub fn of(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.starts_with(b"\x7fELF") {
            return elf_is_kernel(bytes).map(|()| Self::Elf);
        }
        let header = bytes.get(SETUP_HEADER..SETUP_HEADER + size_of::<setup_header>());
        let header = *header.and_then(setup_header::from_slice).ok_or(ImageError::Unrecognised)?;
        if header.header != SETUP_HEADER_MAGIC {
            return Err(ImageError::Unrecognised);
        }
        if header.version < PROTOCOL_WITH_64_BIT_ENTRY || header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(ImageError::No64BitEntry);
        }
        // `syssize` counts the protected-mode code in paragraphs of 16 bytes.
        let code = usize::try_from(header.syssize).ok().and_then(|paragraphs| paragraphs.checked_mul(16));
        let end = code.and_then(|code| code.checked_add(setup_size(&header)));
        match end {
            // The last paragraph may be short.
            Some(end) if end <= bytes.len().saturating_add(15) => Ok(Self::BzImage(header)),
            _ => Err(ImageError::Truncated),
        }
    }
}

fn elf_is_kernel(bytes: &[u8]) -> Result<(), ImageError> {
    const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
    let half = |at: usize| bytes.get(at..at + 2).and_then(|half| <[u8; 2]>::try_from(half).ok());
    let half = |at: usize| half(at).map(u16::from_le_bytes).ok_or(ImageError::Truncated);
    let class = bytes.get(4..6).ok_or(ImageError::Truncated)?;
    if class == CLASS_64_LITTLE_ENDIAN && ELF_TYPES.contains(&half(16)?) && half(18)? == EM_X86_64 {
        Ok(())
    } else {
        Err(ImageError::OtherElf)
    }
}

/// Bytes of the real-mode part, including the boot sector. The protected-mode code follows.
fn setup_size(header: &setup_header) -> usize {
    let sectors = if header.setup_sects == 0 { 4 } else { usize::from(header.setup_sects) };
    (sectors + 1) * 512
}

impl Image {
    /// A kernel whose format [`ImageKind::of`] has detected.
    #[must_use]
    pub fn new(name: String, bytes: Vec<u8>, kind: ImageKind) -> Self {
        Self { name, bytes, kind }
    }

    /// The argument and path, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's contents.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The file's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The file's format.
    #[must_use]
    pub fn kind(&self) -> &ImageKind {
        &self.kind
    }

    /// The compressed kernel in a bzImage (boot protocol 2.08: `payload_offset`, `payload_length`).
    #[must_use]
    pub fn payload(&self) -> Option<&[u8]> {
        let ImageKind::BzImage(header) = &self.kind else { return None };
        let start = setup_size(header).checked_add(usize::try_from(header.payload_offset).ok()?)?;
        let end = start.checked_add(usize::try_from(header.payload_length).ok()?)?;
        self.bytes.get(start..end).filter(|payload| !payload.is_empty())
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

    #[test]
    fn a_bzimage_gives_its_payload() {
        let bytes = bzimage(b"the compressed kernel");
        let kind = ImageKind::of(&bytes).unwrap();
        assert_eq!(Image::new("k".into(), bytes, kind).payload(), Some(&b"the compressed kernel"[..]));
    }

    #[test]
    fn invalid_kernels_have_specific_errors() {
        let whole = bzimage(&[0; 4096]);
        let mut old = whole.clone();
        old[0x206..0x208].copy_from_slice(&0x0204u16.to_le_bytes());
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut kernel = elf.clone();
        kernel[16..20].copy_from_slice(&[2, 0, 62, 0]);
        assert!(matches!(ImageKind::of(&kernel), Ok(ImageKind::Elf)));
        for (bytes, why) in [
            (&b"#!/bin/sh"[..], ImageError::Unrecognised),
            (&[0; 4096], ImageError::Unrecognised),
            (&whole[..2048], ImageError::Truncated),
            (&old, ImageError::No64BitEntry),
            (&elf, ImageError::OtherElf),
            (&elf[..5], ImageError::Truncated),
        ] {
            assert_eq!(ImageKind::of(bytes).err(), Some(why));
        }
    }

    #[test]
    fn a_payload_outside_of_the_file_is_none() {
        let mut bytes = bzimage(&[1; 64]);
        let kind = |bytes: &[u8]| ImageKind::of(bytes).unwrap();
        bytes[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
        let kind = kind(&bytes);
        assert_eq!(Image::new("k".into(), bytes, kind).payload(), None);
    }
}
