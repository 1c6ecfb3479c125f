//! The pages of an MSI-X table that the guest reads without an exit: a copy of the table, mapped read-only at its
//! address in the BAR. Drivers read an entry to flush a write. Without the copy, each read exits.
//!
//! Owns the copy. It is the VMM's own memory: no guest RAM, and not mapped for DMA. It holds only what the guest can
//! read of its table. Only pages that consist of table entries are copied, because other bytes of a page are device
//! registers.
//!
//! Invariant: after a guest's write has returned, the pages show the write or a later one. The lock is held from the
//! read of the table to the store to the pages, so that no read overwrites a later one. It is taken after the write
//! to the table: a write that is slow in the host delays no other. Until the write returns, a reader may see either
//! value, as with any posted write. QWORDs are copied atomically, like a trapped read.
//!
//! [`mapping`](super::mapping) maps the pages, and [`interrupts`](super::interrupts) reports writes. PCIe r6
//! §7.7.2; Linux' Documentation/virt/kvm/api.rst, KVM_MEM_READONLY.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{MmapRegion, VolatileMemory};

use super::mmap_ranges::pages_within;

/// The unit of copying. A table is aligned to it (PCIe r6 §7.7.2.4).
const QWORD: u64 = 8;

/// The pages of one table.
#[derive(Debug)]
pub struct TablePages {
    /// The table's bytes in the BAR.
    table: Range<u64>,
    /// The part of these that the pages show.
    shown: Range<u64>,
    memory: Arc<MmapRegion>,
    order: Mutex<()>,
}

impl TablePages {
    /// The pages of a table at these bytes of its BAR, zeroed. `None` if the table fills no page.
    ///
    /// # Errors
    /// The host's error if memory is short.
    pub fn new(table: Range<u64>) -> io::Result<Option<Self>> {
        let Some(shown) = pages_within(&table) else {
            return Ok(None);
        };
        let size = usize::try_from(shown.end.saturating_sub(shown.start)).map_err(io::Error::other)?;
        let memory = Arc::new(MmapRegion::new(size).map_err(io::Error::other)?);
        Ok(Some(Self { table, shown, memory, order: Mutex::default() }))
    }

    /// The bytes of the BAR, and the memory that shows them.
    #[must_use]
    pub fn part(&self) -> (Range<u64>, Arc<MmapRegion>) {
        (self.shown.clone(), Arc::clone(&self.memory))
    }

    /// Copies the written bytes of the table to the pages. Other bytes are ignored. `read_table` reads from an offset
    /// into the table, as the guest would.
    pub fn update(&self, written: Range<u64>, read_table: impl Fn(u64, &mut [u8])) {
        let start = written.start.max(self.shown.start) & !(QWORD.wrapping_sub(1));
        let end = written.end.min(self.shown.end);
        if start >= end {
            return;
        }
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        for at in (start..end).step_by(QWORD as usize) {
            let mut qword = [0; QWORD as usize];
            read_table(at.saturating_sub(self.table.start), &mut qword);
            if let Some(place) = self.place(at) {
                // The lock orders the stores. The guest sees them, because its next instruction follows a VM entry.
                place.store(u64::from_ne_bytes(qword), Ordering::Relaxed);
            }
        }
    }

    /// Copies the whole table.
    pub fn update_all(&self, read_table: impl Fn(u64, &mut [u8])) {
        self.update(self.shown.clone(), read_table);
    }

    fn place(&self, at: u64) -> Option<&AtomicU64> {
        let offset = usize::try_from(at.checked_sub(self.shown.start)?).ok()?;
        self.memory.get_atomic_ref(offset).ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use vm_memory::Bytes;

    use super::*;

    /// The contents of the pages.
    pub(in crate::vfio) fn seen(memory: &MmapRegion) -> Vec<u8> {
        let mut bytes = vec![0; memory.size()];
        memory.as_volatile_slice().read_slice(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn an_update_never_overwrites_a_later_one() {
        let pages = TablePages::new(0..0x1000).unwrap().unwrap();
        let pages = &pages;
        let (looked, has_looked) = mpsc::channel();
        let (shown, is_shown) = mpsc::channel();
        std::thread::scope(|threads| {
            threads.spawn(move || {
                pages.update(0x10..0x14, |_, bytes| {
                    bytes.fill(1);
                    looked.send(()).unwrap();
                    // The later update waits for this one, so the wait is bounded.
                    let _ = is_shown.recv_timeout(Duration::from_millis(50));
                });
            });
            has_looked.recv().unwrap();
            pages.update(0x10..0x14, |_, bytes| bytes.fill(2));
            // The receiver may have timed out.
            let _ = shown.send(());
        });
        assert_eq!(seen(&pages.memory)[0x10..0x18], [2; 8]);
    }

    #[test]
    fn only_written_entries_are_read() {
        let pages = TablePages::new(0x1008..0x3018).unwrap().unwrap();
        assert_eq!(pages.part().0, 0x2000..0x3000);
        let look = |written: Range<u64>| {
            let looks = Mutex::new(Vec::new());
            pages.update(written, |offset, bytes| looks.lock().unwrap().push((offset, bytes.len())));
            looks.into_inner().unwrap()
        };
        assert_eq!(look(0x2004..0x2008), [(0xff8, 8)]);
        assert_eq!(look(0x2ffc..0x3004), [(0x1ff0, 8)]);
        assert_eq!(look(0x1ffe..0x2001), [(0xff8, 8)]);
        assert_eq!(look(0x2007..0x2009), [(0xff8, 8), (0x1000, 8)]);
        for outside in [0x1008..0x2000, 0x3000..0x3008, 0x2010..0x2010, 0..8, u64::MAX - 8..u64::MAX] {
            assert_eq!(look(outside.clone()), [], "{outside:x?}");
        }
        assert_eq!(look(0..u64::MAX).len(), 512);
    }
}
