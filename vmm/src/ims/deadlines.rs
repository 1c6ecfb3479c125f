//! Deadlines of armed slots, ordered by time. Plain state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use vm_msi::Vector;

/// The deadlines of a device's slots.
#[derive(Debug, Default)]
pub struct Deadlines {
    by_slot: BTreeMap<Vector, Instant>,
    by_time: BTreeSet<(Instant, Vector)>,
}

impl Deadlines {
    /// Arms a slot. Replaces its deadline, if any.
    pub fn arm(&mut self, slot: Vector, at: Instant) {
        self.disarm(slot);
        self.by_slot.insert(slot, at);
        self.by_time.insert((at, slot));
    }

    /// Disarms a slot.
    pub fn disarm(&mut self, slot: Vector) {
        if let Some(at) = self.by_slot.remove(&slot) {
            self.by_time.remove(&(at, slot));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the slot with the earliest deadline, if it has passed.
    pub fn take_due(&mut self, now: Instant) -> Option<Vector> {
        self.next().filter(|at| *at <= now)?;
        let (_, slot) = self.by_time.pop_first()?;
        self.by_slot.remove(&slot);
        Some(slot)
    }

    /// Number of armed slots.
    #[must_use]
    pub fn armed(&self) -> u32 {
        u32::try_from(self.by_slot.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn slots_are_due_in_the_order_of_their_deadlines_and_once() {
        let (start, mut deadlines) = (Instant::now(), Deadlines::default());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        for (slot, milliseconds) in [(3, 30), (1, 10), (2, 10), (7, 20)] {
            deadlines.arm(Vector(slot), at(milliseconds));
        }
        assert_eq!((deadlines.take_due(at(9)), deadlines.next()), (None, Some(at(10))));
        let due: Vec<_> = std::iter::from_fn(|| deadlines.take_due(at(20))).collect();
        assert_eq!((due, deadlines.armed()), (vec![Vector(1), Vector(2), Vector(7)], 1));
    }

    #[test]
    fn a_slot_has_one_deadline_and_a_disarmed_one_none() {
        let (start, mut deadlines) = (Instant::now(), Deadlines::default());
        let later = start + Duration::from_secs(1);
        deadlines.arm(Vector(5), start);
        deadlines.arm(Vector(5), later);
        assert_eq!((deadlines.armed(), deadlines.take_due(start)), (1, None));
        deadlines.arm(Vector(6), start);
        deadlines.disarm(Vector(6));
        deadlines.disarm(Vector(9));
        assert_eq!((deadlines.take_due(later), deadlines.take_due(later)), (Some(Vector(5)), None));
        assert_eq!((deadlines.armed(), deadlines.next()), (0, None));
    }
}
