//! Buffers of chains in host memory, for readv(2) and writev(2).
//!
//! Contains the `unsafe` of the packets' path. Invariant: every segment lies in the mapping of `memory`, which lives as
//! long as this. The guest may access the bytes at any time, so no reference to them is made: only the kernel copies.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use libc::iovec;
use vm_memory::GuestMemoryMmap;

use crate::virtio::chain::{Buffers, OutOfBounds};

/// Most segments of one call, of the kernel's 1024 (UIO_MAXIOV).
pub(super) const MOST: usize = 1000;

/// Segments of guest memory, in order.
pub(super) struct Segments {
    memory: Option<GuestMemoryMmap>,
    list: Vec<iovec>,
    bytes: u64,
}

// SAFETY: the pointers are addresses in `memory`, which any thread may access. Nothing is dereferenced here.
unsafe impl Send for Segments {}

impl Segments {
    pub(super) fn new() -> Self {
        Self { memory: None, list: Vec::new(), bytes: 0 }
    }

    /// Number of segments.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Their length in bytes, all together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets all segments, and takes those of `memory` from now on.
    pub(super) fn clear(&mut self, memory: &GuestMemoryMmap) {
        self.list.clear();
        self.bytes = 0;
        self.memory = Some(memory.clone());
    }

    /// Appends buffers, and returns how many segments they are.
    ///
    /// # Errors
    /// [`OutOfBounds`]: nothing is appended.
    pub(super) fn push(&mut self, buffers: &Buffers) -> Result<usize, OutOfBounds> {
        let Some(memory) = &self.memory else { return Err(OutOfBounds) };
        let (before, mut bytes) = (self.list.len(), self.bytes);
        for slice in buffers.slices(memory, 0..u64::MAX) {
            let Ok(slice) = slice else {
                self.list.truncate(before);
                return Err(OutOfBounds);
            };
            bytes = bytes.saturating_add(slice.len() as u64);
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            self.list.push(iovec { iov_base, iov_len: slice.len() });
        }
        self.bytes = bytes;
        Ok(self.list.len().saturating_sub(before))
    }

    /// Removes the first `count` segments.
    pub(super) fn remove_first(&mut self, count: usize) {
        self.remove(0..count.min(self.list.len()));
    }

    /// Removes the last `count` segments.
    pub(super) fn remove_last(&mut self, count: usize) {
        self.remove(self.list.len().saturating_sub(count)..self.list.len());
    }

    fn remove(&mut self, range: Range<usize>) {
        let removed = self.list.drain(range);
        let removed = removed.fold(0u64, |sum, segment| sum.saturating_add(segment.iov_len as u64));
        self.bytes = self.bytes.saturating_sub(removed);
    }

    /// Reads a packet into the segments, and the rest of it into `rest`. Returns its length in bytes.
    ///
    /// # Errors
    /// The error of readv(2).
    pub(super) fn read(&mut self, file: &File, rest: &mut [u8]) -> io::Result<u64> {
        self.list.push(iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() });
        // SAFETY: the segments are writable memory of `self.memory`, and the last one is `rest`, which is borrowed.
        let count = unsafe { libc::readv(file.as_raw_fd(), self.list.as_ptr(), count(&self.list)) };
        let error = io::Error::last_os_error();
        self.list.pop();
        u64::try_from(count).map_err(|_| error)
    }

    /// Writes all segments as one packet.
    ///
    /// # Errors
    /// The error of writev(2).
    pub(super) fn write(&self, file: &File) -> io::Result<u64> {
        // SAFETY: the segments are readable memory of `self.memory`.
        let count = unsafe { libc::writev(file.as_raw_fd(), self.list.as_ptr(), count(&self.list)) };
        u64::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// The kernel refuses a number of segments that is too large.
fn count(list: &[iovec]) -> i32 {
    i32::try_from(list.len()).unwrap_or(i32::MAX)
}
