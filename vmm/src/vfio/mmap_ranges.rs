//! The pages of a BAR that the guest accesses without an exit: all that the host can mmap, except the pages of the
//! MSI-X table and PBA, which are trapped. Pure arithmetic on BAR offsets.

use std::ops::Range;

/// The host's page size on x86-64, the unit of KVM's and VFIO's mappings.
pub const PAGE: u64 = 4096;

/// The mappable parts of a BAR, in whole pages, sorted. The host can mmap `areas`. Pages with `trapped` bytes are
/// excluded.
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
}
