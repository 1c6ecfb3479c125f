//! A request of the driver (virtio 1.2 §5.2.6), checked against the disk.
//!
//! A driver may cut a request into buffers in any way (§2.7.4.3). The header is the first 16 readable bytes, the status the
//! last writable byte, and the data what is between.

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::GuestMemoryMmap;

use super::geometry::{MOST_DISCARD_SECTORS, MOST_ZEROES_SECTORS};
use super::image::{ImageAccess, SECTOR};
use crate::virtio::chain::Chain;
use crate::virtio::queue::QueueError;

/// Bytes of the header: type, a reserved word, the first sector.
pub(super) const HEADER: u64 = 16;
/// Bytes of a segment of a discard or of a write of zeroes: sector, number of sectors, flags.
const SEGMENT: u64 = 16;

/// A status, as the driver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl Status {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::IoError => VIRTIO_BLK_S_IOERR as u8,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP as u8,
        }
    }
}

/// A valid request. Offsets and lengths are in bytes, and lie in the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Read { offset: u64, len: u64 },
    Write { offset: u64, len: u64 },
    Flush,
    GetId { room: u64 },
    Discard { offset: u64, len: u64 },
    WriteZeroes { offset: u64, len: u64, unmap: Unmap },
}

/// Whether a write of zeroes may deallocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmap {
    Allowed,
    Forbidden,
}

/// The part of a disk that requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) sectors: u64,
    pub(super) access: ImageAccess,
    /// The features that the driver has accepted.
    pub(super) features: u64,
}

/// Checks that a chain has a header and a status, which the device needs even to refuse a request.
pub(super) fn check(chain: &Chain) -> Result<(), QueueError> {
    if chain.fault().is_some() {
        return Err(QueueError::Request("is a malformed chain"));
    }
    if chain.readable().len() < HEADER {
        return Err(QueueError::Request("has no header"));
    }
    if chain.writable().is_empty() {
        return Err(QueueError::Request("has no status"));
    }
    Ok(())
}

impl Request {
    /// Reads the request of a chain that [`check`] has accepted. The error is the status to answer with.
    pub(super) fn parse(chain: &Chain, memory: &GuestMemoryMmap, limits: Limits) -> Result<Self, Status> {
        let mut header = [0; HEADER as usize];
        chain.readable().read(memory, 0, &mut header).map_err(|_| Status::IoError)?;
        let kind = u32::from_le_bytes(*header.first_chunk().ok_or(Status::IoError)?);
        let sector = u64::from_le_bytes(*header.last_chunk().ok_or(Status::IoError)?);
        let output = chain.readable().len().saturating_sub(HEADER);
        let input = chain.writable().len().saturating_sub(1);
        // Data of the wrong direction.
        let no_output = if output == 0 { Ok(()) } else { Err(Status::IoError) };
        let no_input = if input == 0 { Ok(()) } else { Err(Status::IoError) };
        match kind {
            VIRTIO_BLK_T_IN => {
                no_output?;
                let offset = limits.offset(sector, input)?;
                Ok(Self::Read { offset, len: input })
            }
            VIRTIO_BLK_T_OUT => {
                no_input?;
                limits.check_writable()?;
                let offset = limits.offset(sector, output)?;
                Ok(Self::Write { offset, len: output })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            VIRTIO_BLK_T_GET_ID => no_output.map(|()| Self::GetId { room: input }),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
                no_input?;
                let is_discard = kind == VIRTIO_BLK_T_DISCARD;
                let feature = if is_discard { VIRTIO_BLK_F_DISCARD } else { VIRTIO_BLK_F_WRITE_ZEROES };
                if limits.features.wrapping_shr(feature) & 1 == 0 {
                    return Err(Status::Unsupported);
                }
                limits.check_writable()?;
                // max_discard_seg and max_write_zeroes_seg are 1.
                if output != SEGMENT {
                    return Err(Status::IoError);
                }
                let mut segment = [0; SEGMENT as usize];
                chain.readable().read(memory, HEADER, &mut segment).map_err(|_| Status::IoError)?;
                limits.segment(&segment, is_discard)
            }
            _ => Err(Status::Unsupported),
        }
    }
}

impl Limits {
    fn check_writable(self) -> Result<(), Status> {
        match self.access {
            ImageAccess::ReadWrite => Ok(()),
            ImageAccess::ReadOnly => Err(Status::IoError),
        }
    }

    /// The offset in bytes of `len` bytes from a sector on, which are whole sectors of the disk.
    fn offset(self, sector: u64, len: u64) -> Result<u64, Status> {
        let end = sector.checked_add(len / SECTOR).ok_or(Status::IoError)?;
        if !len.is_multiple_of(SECTOR) || end > self.sectors {
            return Err(Status::IoError);
        }
        sector.checked_mul(SECTOR).ok_or(Status::IoError)
    }

    /// The request of a segment (virtio 1.2 §5.2.6.2).
    fn segment(self, segment: &[u8; SEGMENT as usize], is_discard: bool) -> Result<Request, Status> {
        let sector = u64::from_le_bytes(*segment.first_chunk().ok_or(Status::IoError)?);
        let tail: [u8; 8] = *segment.last_chunk().ok_or(Status::IoError)?;
        let sectors = u32::from_le_bytes(*tail.first_chunk().ok_or(Status::IoError)?);
        let flags = u32::from_le_bytes(*tail.last_chunk().ok_or(Status::IoError)?);
        let (known, most) = if is_discard {
            (0, MOST_DISCARD_SECTORS)
        } else {
            (VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, MOST_ZEROES_SECTORS)
        };
        if flags & !known != 0 {
            return Err(Status::Unsupported);
        }
        if sectors > most {
            return Err(Status::IoError);
        }
        let len = u64::from(sectors).saturating_mul(SECTOR);
        let offset = self.offset(sector, len)?;
        let unmap = if flags == 0 { Unmap::Forbidden } else { Unmap::Allowed };
        Ok(if is_discard {
            Request::Discard { offset, len }
        } else {
            Request::WriteZeroes { offset, len, unmap }
        })
    }
}
