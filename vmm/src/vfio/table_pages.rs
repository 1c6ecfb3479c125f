//! The pages of an MSI-X table that the guest reads without an exit: a copy of the table's entries, which the guest sees
//! read-only at their place in the BAR. A driver reads an entry to flush its writes; under a hypervisor that only costs.
//!
//! Owns the copy. It is the VMM's own memory: no guest RAM, not mapped for the device, and with nothing in it but what
//! the guest can read of its table anyway. Which pages: those that are table entries to the last byte, because what a
//! page has beside entries are registers of the device.
//!
//! Invariant: once a guest's write has returned, the pages show it, or what was written later. The lock is held from
//! looking at the table until the pages show what was seen, so no look overwrites a later one. It is taken after the
//! table was written and not across that: a write that takes long in the host keeps no other one waiting, and until it
//! returns a reader may see either, as with any posted write. QWORDs are copied whole, as a trapped read sees them.
//!
//! Left to others: placing the pages ([`mapping`](super::mapping)) and saying what was written
//! ([`interrupts`](super::interrupts)). PCIe r6 §7.7.2, Linux' Documentation/virt/kvm/api.rst, KVM_MEM_READONLY.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{MmapRegion, VolatileMemory};

use super::mmap_ranges::pages_within;

/// What is copied at once. A table starts at a multiple of it (PCIe r6 §7.7.2.4).
const QWORD: u64 = 8;

/// Pages of one table.
#[derive(Debug)]
pub struct TablePages {
    /// The table's bytes in the BAR.
    table: Range<u64>,
    /// Of these, what the pages show.
    shown: Range<u64>,
    memory: Arc<MmapRegion>,
    order: Mutex<()>,
}

impl TablePages {
    /// The pages of a table at these bytes of its BAR, zeroed as yet; `None` where it fills no page.
    ///
    /// # Errors
    /// The host's, which has no memory.
    pub fn new(table: Range<u64>) -> io::Result<Option<Self>> {
        let Some(shown) = pages_within(&table) else {
            return Ok(None);
        };
        let size = usize::try_from(shown.end.saturating_sub(shown.start)).map_err(io::Error::other)?;
        let memory = Arc::new(MmapRegion::new(size).map_err(io::Error::other)?);
        Ok(Some(Self { table, shown, memory, order: Mutex::default() }))
    }

    /// Which bytes of the BAR they are, and the memory that shows them.
    #[must_use]
    pub fn part(&self) -> (Range<u64>, Arc<MmapRegion>) {
        (self.shown.clone(), Arc::clone(&self.memory))
    }

    /// Shows what was written to these bytes of the BAR; those of others are left alone. `read_table` reads as the guest
    /// does, from an offset into the table.
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
                // The lock orders the stores, and a guest's next instruction comes after an entry of its CPU.
                place.store(u64::from_ne_bytes(qword), Ordering::Relaxed);
            }
        }
    }

    /// Shows all of the table.
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

    /// What a guest reads of pages.
    pub(in crate::vfio) fn seen(memory: &MmapRegion) -> Vec<u8> {
        let mut bytes = vec![0; memory.size()];
        memory.as_volatile_slice().read_slice(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_look_at_the_table_never_overwrites_a_later_one() {
        let pages = TablePages::new(0..0x1000).unwrap().unwrap();
        let pages = &pages;
        let (looked, has_looked) = mpsc::channel();
        let (shown, is_shown) = mpsc::channel();
        std::thread::scope(|threads| {
            threads.spawn(move || {
                pages.update(0x10..0x14, |_, bytes| {
                    bytes.fill(1);
                    looked.send(()).unwrap();
                    // The later one waits for this one, so this is not to wait for it for ever.
                    let _ = is_shown.recv_timeout(Duration::from_millis(50));
                });
            });
            has_looked.recv().unwrap();
            pages.update(0x10..0x14, |_, bytes| bytes.fill(2));
            // There may be nobody left to hear it.
            let _ = shown.send(());
        });
        assert_eq!(seen(&pages.memory)[0x10..0x18], [2; 8]);
    }

    #[test]
    fn only_what_was_written_is_looked_at() {
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
