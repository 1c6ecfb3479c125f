//! MSI-X in BARs: the emulated table and PBA, and the table pages that the guest reads without an exit.
//!
//! Owns the pages and keeps them up to date. Every write to the table, and every reset, passes through here or is
//! reported here before it returns to the guest.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use vm_memory::MmapRegion;
use vm_msi::msix::{Bar, Layout, Msix};
use vm_msi::{Domain, InterruptFunction};

use crate::vfio::table_pages::TablePages;

/// MSI-X registers with any domain.
pub(super) trait BarRegisters: fmt::Debug + Send + Sync {
    /// The location of table and PBA.
    fn layout(&self) -> &Layout;
    /// Reads the table. `offset` counts from its first entry.
    fn read_table(&self, offset: u64, data: &mut [u8]);
    /// Reads a BAR. `device` reads the bytes outside table and PBA.
    fn read_bar(&self, bar: Bar, offset: u64, data: &mut [u8], device: &mut dyn FnMut(u64, &mut [u8]));
    /// Writes a BAR. `device` writes the bytes outside table and PBA.
    fn write_bar(&self, bar: Bar, offset: u64, data: &[u8], device: &mut dyn FnMut(u64, &[u8]));
}

impl<D: Domain + fmt::Debug + Send + Sync> BarRegisters for InterruptFunction<Msix, D> {
    fn layout(&self) -> &Layout {
        self.layout()
    }

    fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.read_table(offset, data);
    }

    fn read_bar(&self, bar: Bar, offset: u64, data: &mut [u8], device: &mut dyn FnMut(u64, &mut [u8])) {
        self.read_bar(bar, offset, data, device);
    }

    fn write_bar(&self, bar: Bar, offset: u64, data: &[u8], device: &mut dyn FnMut(u64, &[u8])) {
        self.write_bar(bar, offset, data, device);
    }
}

/// A function's MSI-X in its BARs.
#[derive(Debug)]
pub(super) struct MsixBars {
    registers: Arc<dyn BarRegisters>,
    pages: Option<TablePages>,
}

impl MsixBars {
    /// MSI-X with every access trapped.
    pub(super) fn new(registers: Arc<dyn BarRegisters>) -> Self {
        Self { registers, pages: None }
    }

    /// Creates the pages that the guest reads without an exit, if the table fills any.
    pub(super) fn make_pages(&mut self) -> io::Result<()> {
        self.pages = TablePages::new(self.registers.layout().table().bytes.clone())?;
        self.update_all();
        Ok(())
    }

    /// The emulated bytes of a BAR.
    pub(super) fn trapped(&self, bar: usize) -> Vec<Range<u64>> {
        let layout = self.registers.layout();
        let windows = [layout.table(), layout.pba()].into_iter();
        windows.filter(|window| is_in(window.bar, bar)).map(|window| window.bytes.clone()).collect()
    }

    /// The part of these that the guest reads without an exit, and the memory behind it.
    pub(super) fn readable(&self, bar: usize) -> Option<(Range<u64>, Arc<MmapRegion>)> {
        let pages = self.pages.as_ref().filter(|_| is_in(self.registers.layout().table().bar, bar));
        pages.map(TablePages::part)
    }

    pub(super) fn read(
        &self,
        bar: Bar,
        offset: u64,
        data: &mut [u8],
        device: &mut dyn FnMut(u64, &mut [u8]),
    ) {
        self.registers.read_bar(bar, offset, data, device);
    }

    pub(super) fn write(&self, bar: Bar, offset: u64, data: &[u8], device: &mut dyn FnMut(u64, &[u8])) {
        self.registers.write_bar(bar, offset, data, device);
        if let Some(pages) = self.pages.as_ref().filter(|_| self.registers.layout().table().bar == bar) {
            let written = offset..offset.saturating_add(data.len() as u64);
            pages.update(written, |offset, data| self.registers.read_table(offset, data));
        }
    }

    /// Updates all pages after a reset.
    pub(super) fn update_all(&self) {
        if let Some(pages) = &self.pages {
            pages.update_all(|offset, data| self.registers.read_table(offset, data));
        }
    }
}

fn is_in(bar: Bar, index: usize) -> bool {
    usize::from(bar.index()) == index
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;
    use vm_msi::SoftwareMsix;
    use vm_msi::msix::TableSize;
    use vm_msi::testing::{Failures, FakeRouter};

    use super::*;
    use crate::vfio::table_pages::tests::seen;

    /// MSI-X with its table in BAR 2, its pending bits behind it, and pages where the table fills some.
    fn bars(vectors: u16, table: u32) -> MsixBars {
        let bar = Bar::new(2).unwrap();
        let pba = table + u32::from(vectors) * 16;
        let layout = Layout::new(TableSize::new(vectors).unwrap(), (bar, table), (bar, pba)).unwrap();
        let router = Arc::new(FakeRouter::new(Failures::default()));
        let mut bars = MsixBars::new(Arc::new(SoftwareMsix::software(layout, router)));
        bars.make_pages().unwrap();
        bars
    }

    fn write(bars: &MsixBars, offset: u64, data: &[u8]) {
        bars.write(Bar::new(2).unwrap(), offset, data, &mut |_, _| ());
    }

    /// Whether the pages are what trapped reads give, and nothing of the device's.
    fn are_true(bars: &MsixBars) -> bool {
        let (part, memory) = bars.readable(2).unwrap();
        let mut trapped = vec![0; memory.size()];
        let mut has_others = false;
        bars.read(Bar::new(2).unwrap(), part.start, &mut trapped, &mut |_, _| has_others = true);
        seen(&memory) == trapped && !has_others
    }

    #[test]
    fn a_table_that_fills_no_page_has_none_and_no_other_bar_has() {
        assert!(bars(255, 0).readable(2).is_none());
        let full = bars(256, 0);
        assert_eq!(full.readable(2).map(|(part, _)| part), Some(0..0x1000));
        assert!(full.readable(0).is_none());
        assert_eq!((full.trapped(2), full.trapped(0)), (vec![0..0x1000, 0x1000..0x1020], vec![]));
    }

    #[test]
    fn pages_begin_as_the_table_does_and_no_other_bar_writes_them() {
        let bars = bars(2048, 0x800);
        assert!(are_true(&bars));
        let (_, memory) = bars.readable(2).unwrap();
        assert_eq!(seen(&memory)[..32], [[0; 12].as_slice(), &[1, 0, 0, 0]].concat().repeat(2));
        bars.write(Bar::new(0).unwrap(), 0x1000, &[0xff; 16], &mut |_, _| ());
        assert!(are_true(&bars));
    }

    proptest! {
        #[test]
        fn pages_show_what_a_trapped_read_gives_after_writes_of_any_place_and_width(
            (vectors, table) in prop_oneof![Just((256, 0)), Just((300, 0)), Just((520, 0x7f8)), Just((2048, 0x1000))],
            writes in prop::collection::vec((0u64..0x9100, prop::collection::vec(any::<u8>(), 0..40)), 1..60),
        ) {
            let bars = bars(vectors, table);
            for (offset, data) in writes {
                // Most of them where they matter, at the start and the end of the pages.
                let (part, _) = bars.readable(2).unwrap();
                let offset = match offset % 4 {
                    0 => offset,
                    1 => part.start.saturating_sub(20) + offset % 40,
                    2 => part.end - 20 + offset % 40,
                    _ => part.start + offset % (part.end - part.start),
                };
                write(&bars, offset, &data);
                prop_assert!(are_true(&bars), "after {} bytes at {offset:#x}", data.len());
            }
        }
    }

    #[test]
    fn the_pages_show_the_last_of_concurrent_writes() {
        const WRITERS: u64 = 3;
        let bars = bars(256, 0);
        let start = Barrier::new(WRITERS as usize);
        let untrue = AtomicUsize::new(0);
        std::thread::scope(|threads| {
            for writer in 0..WRITERS {
                let (bars, start, untrue) = (&bars, &start, &untrue);
                threads.spawn(move || {
                    for round in 0..1000 {
                        start.wait();
                        for write_number in 0..4 {
                            let value = writer << 32 | round << 8 | write_number;
                            write(bars, 0x120, &value.to_le_bytes());
                        }
                        // A panic here would leave the others waiting.
                        if start.wait().is_leader() && !are_true(bars) {
                            untrue.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(untrue.into_inner(), 0);
    }
}
