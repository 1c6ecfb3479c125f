//! The interrupts that wait, and the domain's report.

use std::collections::BTreeSet;

use super::Host;
use crate::delivery::Vector;
use crate::domain::Latched;
use crate::domain::report::{DomainReport, VectorReport};
use crate::domain::slot::Slot;
use crate::state::PendingBits;

impl Host {
    /// Drops every interrupt that waits here or in the backend.
    pub(in crate::domain) fn clear_pending(&mut self) {
        self.slots.update(|_, slot| slot.clear_pending());
        self.backend.clear_pending(0..self.slots.capacity() as u32);
    }

    /// The pending bits that end with this process. Every vector must be held.
    pub(super) fn pending_to_save(&mut self) -> PendingBits {
        let Self { slots, backend, .. } = self;
        let capacity = slots.capacity() as u32;
        let mut vectors = Slot::wait_here(slots.iter());
        for group in 0..capacity.div_ceil(64) {
            let first = group.saturating_mul(64);
            let bits = backend.pending_to_save(group);
            let waiting = (0..64).filter(|bit| bits.wrapping_shr(*bit) & 1 != 0);
            let waiting = waiting.map(|bit| Vector(first.saturating_add(bit)));
            vectors.extend(waiting.filter(|vector| {
                vector.0 < capacity && !slots.get(*vector).is_some_and(Slot::has_host_vector)
            }));
        }
        PendingBits::collect(capacity, vectors.into_iter())
    }

    /// See [`DeviceDomain::latch`](crate::DeviceDomain::latch).
    pub(in crate::domain) fn latch(&mut self, vector: Vector) -> Latched {
        if vector.index() >= self.slots.capacity() {
            return Latched::NoSuchVector;
        }
        if self.slot(vector).is_some_and(Slot::has_host_vector) {
            return Latched::HasHostVector;
        }
        self.slots.update_one(vector, Slot::latch);
        Latched::Waits
    }

    /// The pending bits of 64 vectors.
    pub(in crate::domain) fn pending(&mut self, group: u32) -> u64 {
        let first = (group as usize).saturating_mul(64);
        let count = self.slots.capacity().saturating_sub(first).min(64);
        if count == 0 {
            // The guest may read any offset. Other registers of the device follow its pending bits.
            return 0;
        }
        let bit = |vector: Vector| 1u64.wrapping_shl(vector.0);
        let mut bound = 0;
        let slots = self.slots.range(first..first.saturating_add(count)).inspect(|(vector, slot)| {
            if slot.has_host_vector() {
                bound |= bit(*vector);
            }
        });
        let here = Slot::wait_here(slots).into_iter().fold(0, |bits, vector| bits | bit(vector));
        let existing = u64::MAX.wrapping_shr(64u32.saturating_sub(count as u32));
        here | self.backend.pending(group) & existing & !bound
    }

    pub(in crate::domain) fn report(&self) -> DomainReport {
        // A vector that was refused its route may have no slot yet.
        let used = self.slots.iter().map(|(vector, _)| vector);
        let vectors: BTreeSet<Vector> = used.chain(self.owed.failed_vectors()).collect();
        let vectors = vectors.into_iter().map(|vector| {
            let slot = self.slot(vector).unwrap_or(&Slot::UNUSED);
            VectorReport::new(vector, slot, self.owed.failure(vector))
        });
        let count = |is: fn(&Slot) -> bool| self.slots.iter().filter(|(_, slot)| is(slot)).count() as u32;
        DomainReport {
            open: self.window > 0,
            host_vectors: self.bound,
            live: count(|slot| matches!(slot, Slot::Live { .. })),
            relayed: count(|slot| matches!(slot, Slot::Relayed { .. })),
            expiring: self.owed.expiring().count() as u32,
            deferred: self.owed.deferred() as u32,
            error: self.window_error.as_ref().map(ToString::to_string),
            budget: self.budget.report(),
            counters: self.counters.clone(),
            vectors: vectors.filter(VectorReport::is_noteworthy).collect(),
        }
    }
}
