//! The pages of a BAR that the guest accesses without an exit: all that the host can mmap, except the pages of the
//! MSI-X table and PBA, which are trapped. Pure arithmetic on BAR offsets.

use std::ops::Range;

/// The host's page size on x86-64, the unit of KVM's and VFIO's mappings.
pub const PAGE: u64 = 4096;

/// The parts of a BAR that the guest may access without an exit, in whole pages, sorted. The host can mmap `areas`. Pages
/// with `trapped` bytes are excluded.
#[must_use]
pub fn mappable(areas: &[Range<u64>], trapped: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut parts: Vec<Range<u64>> = areas.iter().filter_map(pages_within).collect();
    parts.sort_by_key(|part| part.start);
    for hole in trapped.iter().filter(|hole| hole.start < hole.end) {
        let start = hole.start & !(PAGE - 1);
        let end = hole.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        parts = parts
            .into_iter()
            .flat_map(|part| [part.start..part.end.min(start), part.start.max(end)..part.end])
            .filter(|part| part.start < part.end)
            .collect();
    }
    parts
}

/// The pages that lie completely in `range`.
#[must_use]
pub fn pages_within(range: &Range<u64>) -> Option<Range<u64>> {
    let pages = range.start.checked_next_multiple_of(PAGE)?..range.end & !(PAGE - 1);
    (pages.start < pages.end).then_some(pages)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]
mod tests {
    use super::*;

    fn cut(size: u64, trapped: &[Range<u64>]) -> Vec<Range<u64>> {
        mappable(&[0..size], trapped)
    }

    #[test]
    fn whole_pages_around_table_and_pba_are_mapped() {
        assert_eq!(cut(0x4000, &[]), [0..0x4000]);
        // The table at the start, the pending bits behind it on the same page.
        assert_eq!(cut(0x4000, &[0..0x410, 0x800..0x808]), [0x1000..0x4000]);
        // In the middle, over a page boundary; the pending bits at the end.
        assert_eq!(cut(0x8000, &[0x2ff0..0x3010, 0x7ff8..0x8000]), [0..0x2000, 0x4000..0x7000]);
        // 2048 vectors fill eight pages.
        assert_eq!(cut(0x10000, &[0x2000..0xa000, 0xa000..0xa100]), [0..0x2000, 0xb000..0x10000]);
        assert_eq!(cut(0x1000, &[0x800..0x810]), []);
    }

    #[test]
    fn less_than_a_page_is_never_mapped() {
        assert_eq!(cut(0x800, &[]), []);
        assert_eq!(mappable(&[0x800..0x1800], &[]), []);
        assert_eq!(mappable(&[0x800..0x2800], &[]), [0x1000..0x2000]);
    }

    #[test]
    fn the_hosts_own_areas_are_kept_to_and_sorted() {
        let areas = [0x8000..0x10000, 0..0x4000];
        assert_eq!(mappable(&areas, &[]), [0..0x4000, 0x8000..0x10000]);
        assert_eq!(mappable(&areas, &[0x3000..0x9000]), [0..0x3000, 0x9000..0x10000]);
    }

    #[test]
    fn ranges_outside_of_the_bar_or_of_all_addresses_change_nothing() {
        assert_eq!(cut(0x4000, &[0x5000..0x6000]), [0..0x4000]);
        assert_eq!(cut(0x4000, &[u64::MAX - 8..u64::MAX]), [0..0x4000]);
        assert_eq!(mappable(&[u64::MAX - 1..u64::MAX], &[]), []);
        assert_eq!(cut(0x4000, &[0x1000..0x1000]), [0..0x4000], "an empty hole is none");
    }

    #[test]
    fn a_page_is_the_tables_only_to_the_last_byte() {
        let table = |start: u64, entries: u64| pages_within(&(start..start + entries * 16));
        assert_eq!(table(0, 64), None);
        assert_eq!(table(0, 255), None);
        assert_eq!(table(0, 256), Some(0..0x1000));
        assert_eq!(table(0, 300), Some(0..0x1000), "the rest of the second page is the device's");
        assert_eq!(table(0x2000, 2048), Some(0x2000..0xa000));
        assert_eq!(table(0x800, 256), None, "half of two pages");
        assert_eq!(table(0x800, 2048), Some(0x1000..0x8000));
        assert_eq!(pages_within(&(u64::MAX - 1..u64::MAX)), None);
    }

    /// What the guest reaches without an exit around the MSI-X structures of a BAR of `size` bytes, and the whole pages
    /// of the table. `table` and `pba` are the registers of the capability.
    fn around_msix(vectors: u16, table: u32, pba: u32, size: u64) -> (Vec<Range<u64>>, Option<Range<u64>>) {
        let mut capability = [0; 12];
        capability[0] = 0x11;
        capability[2..4].copy_from_slice(&(vectors - 1).to_le_bytes());
        capability[4..8].copy_from_slice(&table.to_le_bytes());
        capability[8..12].copy_from_slice(&pba.to_le_bytes());
        let layout = vm_msi::msix::Layout::parse(&capability).unwrap();
        assert_eq!(layout.size().get(), vectors);
        let (table, pba) = (layout.table().bytes.clone(), layout.pba().bytes.clone());
        (cut(size, &[table.clone(), pba]), pages_within(&table))
    }

    #[test]
    fn a_table_that_starts_within_a_page_leaves_the_pages_around_it() {
        // KIOXIA CD8P: 129 vectors at 0x5200, pending bits at 0xd600.
        let (mapped, full) = around_msix(129, 0x5200, 0xd600, 0x10000);
        assert_eq!((mapped, full), (vec![0..0x5000, 0x6000..0xd000, 0xe000..0x10000], None));
        // One page further, its last byte is in the next page.
        let (mapped, _) = around_msix(129, 0x57f8, 0xd600, 0x10000);
        assert_eq!(mapped, [0..0x5000, 0x7000..0xd000, 0xe000..0x10000]);
        // F1 FPGA: 33 vectors at 0x8000 of BAR 2, pending bits at the end of the same page.
        assert_eq!(around_msix(33, 0x8002, 0x8fe2, 0x10000), (vec![0..0x8000, 0x9000..0x10000], None));
        // Chelsio T5 VF: the pending bits are said to be behind the end of the BAR.
        assert_eq!(around_msix(8, 4, 0x8004, 0x2000).0, [0x1000..0x2000]);
        // Thunderbolt: a BAR of one page with both.
        assert_eq!(around_msix(16, 1, 0xfa1, 0x1000).0, []);
    }

    #[test]
    fn a_table_that_shares_its_last_page_with_registers_traps_the_page() {
        // PM174x: 129 vectors at 0x4000, one entry on the next page, pending bits before it.
        let (mapped, full) = around_msix(129, 0x4000, 0x3000, 0x8000);
        assert_eq!((mapped, full), (vec![0..0x3000, 0x5000..0x8000], None));
        // ConnectX-3: 256 vectors that fill a page.
        assert_eq!(around_msix(256, 0x7c000, 0x7d000, 0x10_0000).1, Some(0x7c000..0x7d000));
        // One more vector: the second page has doorbells behind one entry.
        let (mapped, full) = around_msix(257, 0x2000, 0x8000, 0x9000);
        assert_eq!((mapped, full), (vec![0..0x2000, 0x4000..0x8000], Some(0x2000..0x3000)));
    }
}
