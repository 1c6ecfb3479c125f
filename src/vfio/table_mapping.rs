//! A mapping of a device's own MSI-X table, which only the kernel reads.
//!
//! VFIO answers a read() of the table with 0xff, so a mapping is the only way to see it. A load from the
//! mapping in user space causes SIGBUS while memory decoding is off or the device is in D3. A check before
//! the load would race with the guest or another process. User space therefore never loads from it.
//! FUTEX_WAIT with a timeout of zero makes the kernel read one aligned u32 and compare it with a value. It
//! fails with EFAULT if the page cannot be read.
//!
//! Owns the mapping and this module's `unsafe`. Invariant: the mapping lives as long as its owner, and this
//! process dereferences no address in it. Locking: none, because comparing changes nothing.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::param::page_size;
use rustix::thread::futex::{self, Flags, Timespec};

/// The result of comparing a 32-bit word of the table with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Equal,
    Different,
    /// The kernel cannot read the word now, or the word is outside of the table.
    Unreadable,
}

/// A read-only mapping of a device's table.
#[derive(Debug)]
pub(super) struct TableMapping {
    /// The start of the first page.
    pages: NonNull<c_void>,
    /// The length of the mapping: whole pages.
    mapped: usize,
    /// The offset of the table in the mapping.
    start: usize,
    /// The length of the table.
    bytes: usize,
}

// SAFETY: the mapping belongs to the process and not to a thread, and `TableMapping` is its only owner.
unsafe impl Send for TableMapping {}

impl TableMapping {
    /// Maps `bytes` bytes of the file. `file_offset` must be a multiple of 4.
    pub(super) fn new(device: &File, file_offset: u64, bytes: u64) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let page = page_size();
        let start = usize::try_from(file_offset).map_err(|_| invalid())? & page.wrapping_sub(1);
        let bytes = usize::try_from(bytes).map_err(|_| invalid())?;
        let end = start.checked_add(bytes).ok_or_else(invalid)?;
        let mapped = end.checked_next_multiple_of(page).filter(|_| bytes > 0).ok_or_else(invalid)?;
        let first = file_offset.saturating_sub(start as u64);
        if !start.is_multiple_of(4) {
            return Err(invalid());
        }
        // SAFETY: the kernel chooses the address, so no other mapping is replaced.
        let pages =
            unsafe { mmap(ptr::null_mut(), mapped, ProtFlags::READ, MapFlags::SHARED, device, first) }?;
        let pages = NonNull::new(pages).ok_or_else(invalid)?;
        Ok(Self { pages, mapped, start, bytes })
    }

    /// Compares the word at `offset` with `value`. `offset` is in bytes from the table's start, and a
    /// multiple of 4.
    pub(super) fn compare(&self, offset: u64, value: u32) -> Word {
        let offset = usize::try_from(offset).ok().filter(|at| at.is_multiple_of(4));
        let inside = offset.filter(|at| at.checked_add(4).is_some_and(|end| end <= self.bytes));
        let Some(at) = inside.and_then(|at| at.checked_add(self.start)) else { return Word::Unreadable };
        let word = self.pages.as_ptr().wrapping_byte_add(at).cast::<AtomicU32>();
        // SAFETY: the word is inside of the mapping, which outlives the reference, and it is aligned: the
        // mapping begins at a page, and `start` and the offset are multiples of 4. The device may change it
        // at any time, which an atomic allows. The reference is passed to the kernel as an address. Nothing
        // loads through it here, so no SIGBUS can be raised.
        let word = unsafe { &*word };
        match retry_on_intr(|| futex::wait(word, Flags::PRIVATE, value, Some(&Timespec::default()))) {
            // Nothing wakes a waiter. If the call has slept, the values were equal.
            Ok(()) | Err(Errno::TIMEDOUT) => Word::Equal,
            Err(Errno::AGAIN) => Word::Different,
            Err(_) => Word::Unreadable,
        }
    }
}

impl Drop for TableMapping {
    fn drop(&mut self) {
        // SAFETY: this owner has the whole mapping, and no reference into it is left. munmap does not fail
        // for an existing mapping.
        let _ = unsafe { munmap(self.pages.as_ptr(), self.mapped) };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    /// A file of these words from `offset` on.
    pub(in crate::vfio) fn file_of(offset: u64, words: &[u32]) -> File {
        let file = File::from(memfd_create("table", MemfdFlags::CLOEXEC).unwrap());
        for (word, at) in words.iter().zip((offset..).step_by(4)) {
            file.write_all_at(&word.to_ne_bytes(), at).unwrap();
        }
        file
    }

    #[test]
    fn a_word_is_compared_as_it_is_now() {
        let file = file_of(0, &[0, 0xfee0_0000, 1]);
        let table = TableMapping::new(&file, 0, 16).unwrap();
        assert_eq!(table.compare(0, 0), Word::Equal);
        assert_eq!(table.compare(4, 0), Word::Different);
        assert_eq!(table.compare(4, 0xfee0_0000), Word::Equal);
        assert_eq!(table.compare(8, 1), Word::Equal);
        file.write_all_at(&[0], 8).unwrap();
        assert_eq!(table.compare(8, 1), Word::Different);
    }

    #[test]
    fn a_table_that_begins_within_a_page_is_mapped_from_the_page_on() {
        let page = page_size() as u64;
        let at = page * 3 + 0x7f0;
        let file = file_of(at, &[7, 8, 9, 10]);
        let table = TableMapping::new(&file, at, 16).unwrap();
        assert_eq!([0, 4, 8, 12].map(|at| table.compare(at, 7 + at as u32 / 4)), [Word::Equal; 4]);
    }

    #[test]
    fn a_table_that_crosses_a_page_is_mapped_whole() {
        let at = page_size() as u64 - 8;
        let file = file_of(at, &[1, 2, 3, 4]);
        let table = TableMapping::new(&file, at, 16).unwrap();
        assert_eq!([0, 4, 8, 12].map(|at| table.compare(at, 1 + at as u32 / 4)), [Word::Equal; 4]);
    }

    #[test]
    fn a_page_that_cannot_be_read_raises_no_sigbus() {
        let page = page_size() as u64;
        let file = file_of(0, &[1]);
        let table = TableMapping::new(&file, 0, page * 2).unwrap();
        assert_eq!(table.compare(0, 1), Word::Equal);
        assert_eq!(table.compare(page, 0), Word::Unreadable, "the file ends before it");
        file.set_len(0).unwrap();
        assert_eq!(table.compare(0, 1), Word::Unreadable, "it could be read before");
        file.set_len(page).unwrap();
        assert_eq!(table.compare(0, 0), Word::Equal, "it can be read again");
    }

    #[test]
    fn a_word_outside_of_the_table_is_not_read() {
        let file = file_of(0, &[0; 8]);
        let table = TableMapping::new(&file, 0, 16).unwrap();
        for offset in [13, 16, 20, u64::MAX - 3, u64::MAX] {
            assert_eq!(table.compare(offset, 0), Word::Unreadable, "{offset:#x}");
        }
    }

    #[test]
    fn a_range_that_cannot_be_mapped_is_an_error() {
        let file = file_of(0, &[0]);
        assert!(TableMapping::new(&file, 0, 0).is_err(), "no bytes");
        assert!(TableMapping::new(&file, 2, 16).is_err(), "not aligned");
        assert!(TableMapping::new(&file, u64::MAX - 15, 16).is_err(), "beyond any file");
        assert!(TableMapping::new(&File::open("/proc/self/status").unwrap(), 0, 16).is_err(), "no mmap");
    }
}
