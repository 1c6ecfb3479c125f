//! What waits, and the domain at one moment.

use super::Host;
use crate::backend::Backend;
use crate::delivery::Vector;
use crate::domain::report::{DomainReport, VectorReport};
use crate::domain::slot::Slot;

impl<B: Backend> Host<B> {
    /// Forgets every interrupt that waits here.
    pub(in crate::domain) fn clear_pending(&mut self) {
        self.slots.iter_mut().for_each(Slot::clear_pending);
    }

    /// The pending bits of 64 vectors.
    pub(in crate::domain) fn pending(&mut self, group: u32) -> u64 {
        let first = (group as usize).saturating_mul(64);
        if first >= self.capacity {
            // A guest may ask for any; what the device has beyond its pending bits is something else.
            return 0;
        }
        let device = self.backend.pending(group);
        let beyond = self.slots.len().min(first.saturating_add(64));
        let slots = self.slots.get(first..beyond).unwrap_or_default();
        let mut here = Slot::wait_here(slots);
        let mut bits = 0;
        for index in 0..self.capacity.saturating_sub(first).min(64) {
            let bit = 1u64.wrapping_shl(index as u32);
            let in_device = match slots.get(index).unwrap_or(&Slot::UNUSED) {
                Slot::Idle { .. } | Slot::Ending { .. } => device & bit != 0,
                Slot::Held { .. } | Slot::Live { .. } | Slot::Relayed { .. } => false,
            };
            bits |= if here.next().unwrap_or(false) || in_device { bit } else { 0 };
        }
        bits
    }

    pub(in crate::domain) fn report(&self) -> DomainReport {
        // A vector that was refused its route has no slot yet where it is beyond all that were bound.
        let refused = self.unsettled.keys().next_back().map_or(0, |last| last.index().saturating_add(1));
        let vectors = (0..self.slots.len().max(refused)).map(|index| {
            let (vector, slot) = (Vector(index as u32), self.slots.get(index).unwrap_or(&Slot::UNUSED));
            VectorReport::new(vector, slot, self.unsettled.get(&vector))
        });
        let count = |is: fn(&Slot) -> bool| self.slots.iter().filter(|slot| is(slot)).count() as u32;
        DomainReport {
            open: self.window > 0,
            host_vectors: self.bound,
            live: count(|slot| matches!(slot, Slot::Live { .. })),
            relayed: count(|slot| matches!(slot, Slot::Relayed { .. })),
            lingering: self.lingering.len() as u32,
            error: self.window_error.as_ref().map(ToString::to_string),
            budget: self.budget.report(),
            counters: self.counters.clone(),
            vectors: vectors.filter(VectorReport::is_noteworthy).collect(),
        }
    }
}
