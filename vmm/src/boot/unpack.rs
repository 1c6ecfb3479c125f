//! Decompression of a bzImage's payload on the host.
//!
//! The guest's own decompressor is slower and runs through nested page tables. The output is the kernel's ELF file
//! and its relocation table. The relocation table is not used: the kernel runs at its link address. The formats are
//! those of Linux' `CONFIG_KERNEL_*` that distributions use.

use std::io::{self, Read};

use crate::memory::Scratch;

/// The unpacked size, little endian: gzip has it itself (RFC 1952, ISIZE), and Linux appends it to every other format.
const SIZE_TRAILER: usize = 4;

/// Why the host cannot decompress a payload.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compression format is not supported.
    #[error("unknown compression format (magic {0:02x?})")]
    UnknownFormat(Vec<u8>),
    /// The unpacked kernel exceeds the guest's memory.
    #[error("unpacked, it is larger than {0} bytes")]
    TooLarge(u64),
    /// The compressed data are damaged.
    #[error("{0} data: {1}")]
    Damaged(&'static str, #[source] io::Error),
    /// The size at the payload's end is too small.
    #[error("it is larger than its size says")]
    WrongSize,
    /// The host has no memory for the kernel.
    #[error("no memory to unpack it: {0}")]
    NoMemory(#[source] io::Error),
    /// The payload is not an ELF file.
    #[error("it does not hold an ELF file")]
    NotElf,
}

/// Unpacks `payload` to at most `limit` bytes.
///
/// # Errors
/// Why the payload cannot be decompressed.
pub(crate) fn unpack(payload: &[u8], limit: u64) -> Result<Scratch, Error> {
    let body = payload.len().checked_sub(SIZE_TRAILER).and_then(|end| payload.split_at_checked(end));
    let (body, trailer) = body.unwrap_or((payload, &[]));
    let size = u64::from(trailer.try_into().map_or(0, u32::from_le_bytes));

    let unpacked = match payload {
        [0x1f, 0x8b, ..] => read(flate2::read::GzDecoder::new(payload), "gzip", size, limit),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read(liblzma::read::XzDecoder::new(body), "xz", size, limit),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd(body, size, limit),
        [0x02, 0x21, 0x4c, 0x18, ..] => read(lz4_flex::frame::FrameDecoder::new(body), "lz4", size, limit),
        _ => Err(Error::UnknownFormat(payload.iter().take(6).copied().collect())),
    }?;
    if unpacked.as_ref().starts_with(b"\x7fELF") { Ok(unpacked) } else { Err(Error::NotElf) }
}

/// Decompresses into one buffer of the final size. A stream would copy every byte twice more.
fn zstd(body: &[u8], size: u64, limit: u64) -> Result<Scratch, Error> {
    let mut unpacked = buffer(size, limit)?;
    let length = zstd::bulk::decompress_to_buffer(body, unpacked.as_mut());
    unpacked.truncate(length.map_err(|error| Error::Damaged("zstd", error))?);
    Ok(unpacked)
}

/// A buffer for a kernel of this size.
fn buffer(size: u64, limit: u64) -> Result<Scratch, Error> {
    let size = usize::try_from(size).ok().filter(|_| size <= limit).ok_or(Error::TooLarge(limit))?;
    Scratch::new(size).map_err(Error::NoMemory)
}

/// Decompresses a stream of at most `size` bytes.
fn read(mut decoder: impl Read, format: &'static str, size: u64, limit: u64) -> Result<Scratch, Error> {
    let mut unpacked = buffer(size, limit)?;
    let mut length = 0;
    loop {
        let room = unpacked.as_mut().get_mut(length..).unwrap_or_default();
        // A full buffer, too, is read from: the decoder then checks its checksum, or has more.
        let (read, is_full) =
            if room.is_empty() { (decoder.read(&mut [0]), true) } else { (decoder.read(room), false) };
        match read {
            Ok(0) => break,
            Ok(_) if is_full => return Err(Error::WrongSize),
            Ok(count) => length = length.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Damaged(format, error)),
        }
    }
    unpacked.truncate(length);
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn kernel() -> Vec<u8> {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.extend((0..200_000u32).flat_map(u32::to_le_bytes));
        bytes
    }

    /// Each format as the kernel's build writes it.
    fn packed() -> Vec<(&'static str, Vec<u8>)> {
        let kernel = kernel();
        let size = u32::try_from(kernel.len()).unwrap().to_le_bytes();
        let with_size = |mut bytes: Vec<u8>| {
            bytes.extend(size);
            bytes
        };
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&kernel).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(&kernel).unwrap();
        let zstd = zstd::stream::encode_all(&kernel[..], 3).unwrap();
        vec![
            ("gzip", gzip.finish().unwrap()),
            ("xz", with_size(xz.finish().unwrap())),
            ("zstd", with_size(zstd)),
        ]
    }

    #[test]
    fn every_format_unpacks_to_the_kernel() {
        for (format, bytes) in packed() {
            assert!(unpack(&bytes, 1 << 30).is_ok_and(|unpacked| unpacked.as_ref() == kernel()), "{format}");
        }
    }

    #[test]
    fn damage_and_excess_are_refused() {
        for (format, mut bytes) in packed() {
            let too_large = unpack(&bytes, 1000);
            assert!(matches!(too_large, Err(Error::TooLarge(1000))), "{format}");
            let middle = bytes.len() / 2;
            bytes.drain(middle..middle + 100);
            assert!(unpack(&bytes, 1 << 30).is_err(), "{format}");
        }
        assert!(matches!(unpack(b"BZh91AY", 1 << 30), Err(Error::UnknownFormat(_))));
        assert!(matches!(unpack(&[], 1 << 30), Err(Error::UnknownFormat(_))));
    }

    #[test]
    fn something_else_than_a_kernel_is_refused() {
        let zstd = zstd::stream::encode_all(&b"not a kernel"[..], 3).unwrap();
        assert!(matches!(unpack(&[&zstd[..], &[12, 0, 0, 0]].concat(), 1 << 30), Err(Error::NotElf)));
        assert!(matches!(unpack(&[&zstd[..], &[11, 0, 0, 0]].concat(), 1 << 30), Err(Error::Damaged(..))));
    }
}
