//! The GSIs of the table's slots, from the embedder's allocator.
//!
//! Owns each GSI that the allocator has returned. Invariant: slot n has one GSI for the life of the
//! publisher, and no two slots share one. Locking: none of its own. The allocator is called under the
//! publisher's lock.

use std::collections::BTreeMap;
use std::fmt;

use crate::router::Gsi;

pub(super) struct Gsis {
    allocator: Box<dyn Iterator<Item = Gsi> + Send>,
    state: Allocator,
    of_slots: Vec<Gsi>,
    /// The GSI of slot 0.
    first: Gsi,
    /// The slots whose GSI is not the GSI of slot 0 plus the slot's index. Empty for an allocator that counts
    /// upwards, as most do.
    out_of_sequence: BTreeMap<Gsi, usize>,
}

#[derive(Debug, PartialEq, Eq)]
enum Allocator {
    /// It may have more GSIs.
    Ready,
    /// It returned none. It is tried again before the next commit, not for each prefetched message.
    Dry,
}

impl Gsis {
    pub(super) fn new(allocator: impl Iterator<Item = Gsi> + Send + 'static) -> Self {
        Self {
            allocator: Box::new(allocator),
            state: Allocator::Ready,
            of_slots: Vec::new(),
            first: Gsi(0),
            out_of_sequence: BTreeMap::new(),
        }
    }

    /// The allocator may have more GSIs by now.
    pub(super) fn allocate_again(&mut self) {
        self.state = Allocator::Ready;
    }

    /// How many of the first `slots` slots have a GSI. Allocates missing ones.
    pub(super) fn reserve(&mut self, slots: usize) -> usize {
        while self.of_slots.len() < slots && self.state == Allocator::Ready {
            self.allocate();
        }
        self.of_slots.len().min(slots)
    }

    fn allocate(&mut self) {
        let slot = self.of_slots.len();
        let next = self.allocator.next();
        if slot > 0 && self.out_of_sequence.is_empty() && next.map(|gsi| self.sequential(gsi)) == Some(slot) {
            // The allocator counts upwards, so no slot has this GSI.
            self.of_slots.extend(next);
            return;
        }
        // If two slots had the same GSI, the hypervisor would refuse every table.
        let Some(gsi) = next.filter(|gsi| self.slot(*gsi).is_none()) else {
            self.state = Allocator::Dry;
            return;
        };
        if slot == 0 {
            self.first = gsi;
        }
        if self.sequential(gsi) != slot {
            self.out_of_sequence.insert(gsi, slot);
        }
        self.of_slots.push(gsi);
    }

    /// The GSI of a reserved slot.
    pub(super) fn gsi(&self, slot: usize) -> Option<Gsi> {
        self.of_slots.get(slot).copied()
    }

    /// The slot of a GSI.
    pub(super) fn slot(&self, gsi: Gsi) -> Option<usize> {
        let sequential = self.sequential(gsi);
        if self.gsi(sequential) == Some(gsi) { Some(sequential) } else { self.slot_out_of_sequence(gsi) }
    }

    #[cold]
    fn slot_out_of_sequence(&self, gsi: Gsi) -> Option<usize> {
        self.out_of_sequence.get(&gsi).copied()
    }

    /// The slot of a GSI if the allocator counts upwards. Meaningless for a GSI below the first one.
    fn sequential(&self, gsi: Gsi) -> usize {
        gsi.0.wrapping_sub(self.first.0) as usize
    }
}

impl fmt::Debug for Gsis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gsis").field("of_slots", &self.of_slots).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_found_by_its_gsi_in_whatever_order_the_allocator_counts() {
        for allocated in [vec![24, 25, 26, 27], vec![100, 7, 101, 102, 3], vec![9, 8, 7], vec![u32::MAX, 0]] {
            let mut gsis = Gsis::new(allocated.clone().into_iter().map(Gsi));
            assert_eq!(gsis.reserve(100), allocated.len());
            for (slot, gsi) in allocated.iter().enumerate() {
                assert_eq!((gsis.gsi(slot), gsis.slot(Gsi(*gsi))), (Some(Gsi(*gsi)), Some(slot)));
            }
            assert_eq!((gsis.gsi(allocated.len()), gsis.slot(Gsi(50))), (None, None));
        }
    }

    #[test]
    fn a_gsi_is_not_taken_twice_and_a_dry_allocator_is_asked_again_later() {
        let mut gsis = Gsis::new([24, 24, 25].into_iter().map(Gsi));
        assert_eq!((gsis.reserve(3), gsis.reserve(3)), (1, 1));
        gsis.allocate_again();
        assert_eq!(gsis.reserve(3), 2);
    }
}
