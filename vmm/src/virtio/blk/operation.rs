//! A host operation on a disk's file, with its buffers.
//!
//! Contains `unsafe`: the buffers are raw pointers into guest memory, which a driver changes at any time, so they cannot
//! be references. Invariant: the pointers are valid while their [`Iovecs`] live, because these keep the memory mapped.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use crate::virtio::chain::{Buffers, OutOfBounds};

/// Bytes of [`ZEROES`].
const ZEROES_BYTES: usize = 64 << 10;
/// Source of zeroes for file systems that cannot zero a range.
static ZEROES: [u8; ZEROES_BYTES] = [0; ZEROES_BYTES];

/// Buffers for readv(2) and writev(2).
#[derive(Debug, Default)]
pub(in crate::virtio) struct Iovecs {
    iovecs: Vec<libc::iovec>,
    /// Keeps the buffers mapped. `None` for [`ZEROES`].
    _memory: Option<GuestMemoryMmap>,
}

// SAFETY: the pointers lead to mapped guest memory, which may be accessed from any thread, or to `ZEROES`.
unsafe impl Send for Iovecs {}

impl Iovecs {
    /// The first `len` bytes of the buffers from `offset` on.
    pub(in crate::virtio) fn new(
        buffers: &Buffers,
        memory: &GuestMemoryMmap,
        offset: u64,
        len: u64,
    ) -> Result<Self, OutOfBounds> {
        let slices = buffers.slices(memory, offset..offset.saturating_add(len));
        let iovec = |slice: vm_memory::VolatileSlice<'_>| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        let iovecs = slices.map(|slice| slice.map(iovec)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { iovecs, _memory: Some(memory.clone()) })
    }

    /// `len` zeroes, for writes only.
    fn zeroes(len: u64) -> Self {
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        let mut iovecs = Vec::new();
        while left > 0 {
            let iov_len = left.min(ZEROES_BYTES);
            iovecs.push(libc::iovec { iov_base: ZEROES.as_ptr().cast_mut().cast(), iov_len });
            left = left.saturating_sub(iov_len);
        }
        Self { iovecs, _memory: None }
    }

    /// Skips bytes that were transferred.
    fn advance(&mut self, bytes: u64) {
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        let whole = self.iovecs.iter().take_while(|iovec| match left.checked_sub(iovec.iov_len) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        });
        let whole = whole.count();
        self.iovecs.drain(..whole);
        if let Some(first) = self.iovecs.first_mut() {
            // Less than the buffer's length remains to be skipped, so the pointer stays in the buffer.
            first.iov_base = first.iov_base.wrapping_byte_add(left);
            first.iov_len = first.iov_len.saturating_sub(left);
        }
    }

    pub(in crate::virtio) fn as_ptr(&self) -> *const libc::iovec {
        self.iovecs.as_ptr()
    }

    pub(in crate::virtio) fn len(&self) -> u32 {
        u32::try_from(self.iovecs.len()).unwrap_or(u32::MAX)
    }
}

/// When a write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::virtio) enum Durability {
    /// After a flush.
    Cached,
    /// When it is completed.
    Immediate,
}

impl Durability {
    /// Flags of pwritev2(2).
    pub(in crate::virtio) fn flags(self) -> i32 {
        match self {
            Self::Cached => 0,
            Self::Immediate => libc::RWF_DSYNC,
        }
    }
}

/// What the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::virtio) enum Kind {
    Read,
    Write(Durability),
    /// fdatasync(2).
    Sync,
    /// Deallocates and reads as zeroes.
    PunchHole,
    /// Allocates and reads as zeroes.
    ZeroRange,
}

/// A host operation.
#[derive(Debug)]
pub(in crate::virtio) struct Operation {
    pub(in crate::virtio) kind: Kind,
    /// First byte in the file.
    pub(in crate::virtio) offset: u64,
    /// Bytes that are left to do.
    pub(in crate::virtio) len: u64,
    pub(in crate::virtio) iovecs: Iovecs,
    pub(in crate::virtio) file: Arc<File>,
}

impl Operation {
    /// Flags of fallocate(2).
    pub(in crate::virtio) fn mode(&self) -> i32 {
        match self.kind {
            Kind::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            _ => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        }
    }

    /// What is left to do after the host has transferred `bytes`. `None` if nothing is left.
    ///
    /// # Errors
    /// The file has ended.
    pub(in crate::virtio) fn rest(mut self, bytes: u64) -> io::Result<Option<Self>> {
        if !matches!(self.kind, Kind::Read | Kind::Write(_)) || bytes >= self.len {
            return Ok(None);
        }
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.iovecs.advance(bytes);
        self.offset = self.offset.saturating_add(bytes);
        self.len = self.len.saturating_sub(bytes);
        Ok(Some(self))
    }

    /// The same range of zeroes as a write of data.
    pub(in crate::virtio) fn into_zero_write(self, durability: Durability) -> Self {
        Self { kind: Kind::Write(durability), iovecs: Iovecs::zeroes(self.len), ..self }
    }

    /// Performs the operation on the calling thread. Returns the bytes transferred.
    pub(in crate::virtio) fn perform(&self) -> io::Result<u64> {
        let (fd, count) = (self.file.as_raw_fd(), self.iovecs.len().cast_signed());
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let offset = i64::try_from(self.offset).map_err(invalid)?;
        let len = i64::try_from(self.len).map_err(invalid)?;
        let result = match self.kind {
            Kind::Read => {
                // SAFETY: the buffers are valid while `self` lives, and guest memory may be written at any time.
                unsafe { libc::preadv(fd, self.iovecs.as_ptr(), count, offset) }
            }
            Kind::Write(durability) => {
                // SAFETY: the buffers are valid while `self` lives.
                unsafe { libc::pwritev2(fd, self.iovecs.as_ptr(), count, offset, durability.flags()) }
            }
            Kind::Sync => {
                // SAFETY: the call has no pointers.
                unsafe { libc::fdatasync(fd) as isize }
            }
            Kind::PunchHole | Kind::ZeroRange => {
                // SAFETY: the call has no pointers.
                unsafe { libc::fallocate(fd, self.mode(), offset, len) as isize }
            }
        };
        u64::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}
