//! The BAR at each bus address. Claimed ranges never overlap: an overlapping claim is refused.

use std::collections::BTreeMap;

use super::function::{DeviceFunction, Pages};
use super::windows::{BusRange, PAGE, Space};

/// One function's BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarOwner {
    /// The function.
    pub function: DeviceFunction,
    /// The BAR's index.
    pub bar: usize,
}

/// The BAR at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The BAR.
    pub owner: BarOwner,
    /// Bytes from the BAR's start.
    pub offset: u64,
    /// Bytes from the address to the BAR's end.
    pub remaining: u64,
}

/// Claimed ranges by address space and start.
#[derive(Debug, Default)]
pub struct AddressMap {
    claims: BTreeMap<(Space, u64), (BusRange, BarOwner)>,
}

impl AddressMap {
    /// Claims a range. Returns `false` if it overlaps an existing claim, which stays.
    #[must_use]
    pub fn claim(&mut self, range: BusRange, owner: BarOwner) -> bool {
        // Claims do not overlap, so only the last one that starts below the range's end can overlap it.
        let below = (range.space(), 0)..(range.space(), range.end());
        let free =
            self.claims.range(below).next_back().is_none_or(|(_, (other, _))| other.end() <= range.start());
        if free {
            self.claims.insert((range.space(), range.start()), (range, owner));
        }
        free
    }

    /// Whether the pages of a claimed range contain other BARs.
    #[must_use]
    pub fn pages(&self, range: &BusRange) -> Pages {
        let end = range.end().checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        // No other claim starts in these pages. The range starts at a page boundary, so no claim reaches into them
        // from below.
        let others = self.claims.range((range.space(), range.start())..(range.space(), end)).nth(1);
        if range.start().is_multiple_of(PAGE) && others.is_none() { Pages::Exclusive } else { Pages::Shared }
    }

    /// The BAR at `address`.
    #[must_use]
    pub fn find(&self, space: Space, address: u64) -> Option<Hit> {
        let (_, (range, owner)) = self.claims.range((space, 0)..=(space, address)).next_back()?;
        let remaining = range.end().checked_sub(address).filter(|remaining| *remaining > 0)?;
        Some(Hit { owner: *owner, offset: address.checked_sub(range.start())?, remaining })
    }

    /// Bytes from `address`, which has no BAR, to the next BAR.
    #[must_use]
    pub fn gap(&self, space: Space, address: u64) -> u64 {
        let above = self.claims.range((space, address)..=(space, u64::MAX)).next();
        above.map_or(u64::MAX, |((_, start), _)| *start).saturating_sub(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(bar: usize) -> BarOwner {
        BarOwner { function: DeviceFunction::from_bits(8), bar }
    }

    fn range(start: u64, len: u64) -> BusRange {
        BusRange::new(Space::Memory, start, len).unwrap()
    }

    #[test]
    fn overlapping_claims_are_refused_from_every_side() {
        let mut map = AddressMap::default();
        assert!(map.claim(range(0x1000, 0x1000), owner(0)));
        for (start, len) in [(0x1000, 0x1000), (0, 0x1001), (0x1fff, 1), (0x1800, 0x10), (0, 0x10000)] {
            assert!(!map.claim(range(start, len), owner(1)), "{start:#x} {len:#x}");
        }
        assert!(map.claim(range(0, 0x1000), owner(2)));
        assert!(map.claim(range(0x2000, 0x1000), owner(3)));
        assert!(map.claim(BusRange::new(Space::Io, 0x1000, 8).unwrap(), owner(4)));
    }

    #[test]
    fn pages_are_a_bars_own_while_no_other_answers_in_them() {
        let mut map = AddressMap::default();
        let (small, large) = (range(0x1000, 0x100), range(0x2000, 0x2000));
        let (within, last) = (range(0x1800, 0x100), range(0x1ff0, 0x10));
        assert!(map.claim(small, owner(0)) && map.claim(large, owner(1)));
        assert_eq!((map.pages(&small), map.pages(&large)), (Pages::Exclusive, Pages::Exclusive));
        assert!(map.claim(BusRange::new(Space::Io, 0x1f00, 0x10).unwrap(), owner(2)));
        assert_eq!(map.pages(&small), Pages::Exclusive, "ports have no pages");
        assert!(map.claim(last, owner(3)));
        assert_eq!((map.pages(&small), map.pages(&last)), (Pages::Shared, Pages::Shared));
        assert_eq!(map.pages(&large), Pages::Exclusive);
        let mut alone = AddressMap::default();
        assert!(alone.claim(within, owner(0)));
        assert_eq!(alone.pages(&within), Pages::Shared, "it begins within the page");
    }

    #[test]
    fn an_address_finds_its_bar_or_nothing() {
        let mut map = AddressMap::default();
        assert!(map.claim(range(0x1000, 0x1000), owner(0)));
        assert!(map.claim(range(0x4000, 0x10), owner(1)));
        assert_eq!(
            map.find(Space::Memory, 0x1ffe),
            Some(Hit { owner: owner(0), offset: 0xffe, remaining: 2 })
        );
        assert_eq!(
            map.find(Space::Memory, 0x4000),
            Some(Hit { owner: owner(1), offset: 0, remaining: 0x10 })
        );
        for outside in [0, 0xfff, 0x2000, 0x4010, u64::MAX] {
            assert_eq!(map.find(Space::Memory, outside), None);
        }
        assert_eq!(map.find(Space::Io, 0x1000), None);
    }

    #[test]
    fn a_gap_ends_at_the_next_bar_of_the_space() {
        let mut map = AddressMap::default();
        assert!(map.claim(range(0x1000, 0x1000), owner(0)));
        assert!(map.claim(range(0x4000, 0x10), owner(1)));
        assert!(map.claim(BusRange::new(Space::Io, 0x2004, 4).unwrap(), owner(2)));
        let gap = |at| map.gap(Space::Memory, at);
        assert_eq!((gap(0), gap(0xfff), gap(0x2000), gap(0x3fff)), (0x1000, 1, 0x2000, 1));
        assert_eq!((gap(0x4010), map.gap(Space::Io, 0x2000)), (u64::MAX - 0x4010, 4));
    }
}
