//! A step of one vector: what it may use of the host's, and the counters that it moves.
//!
//! Invariant: `attaches` without `detaches` is how many vectors have an irqfd, as both are counted by what a vector is before
//! and after a step, whatever the step has tried on its way. Only [a close](super::window) takes irqfds down all at once.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Host;
use crate::backend::Backend;
use crate::budget::Budget;
use crate::delivery::Vector;
use crate::domain::error::{Cause, DomainError};
use crate::domain::slot::{Slot, Step};

/// What a step may use.
pub(super) struct Means<'host> {
    pub(super) backend: &'host mut dyn Backend,
    pub(super) budget: &'host Arc<Budget>,
    /// What userspace watches for the vectors that it delivers.
    pub(super) relay: Option<&'host OwnedFd>,
}

impl Host {
    /// Takes a vector a step, and puts it where that has led, also where the host has refused.
    pub(super) fn step(
        &mut self,
        vector: Vector,
        step: impl FnOnce(Slot, Means<'_>) -> Step,
    ) -> Result<(), DomainError> {
        let Self { slots, backend, budget, relay, .. } = self;
        let slot = slots.take(vector);
        let (had_host_vector, was_attached) = (slot.has_host_vector(), slot.is_attached());
        let (slot, result) =
            match step(slot, Means { backend: &mut **backend, budget, relay: relay.as_deref() }) {
                Ok(slot) => (slot, Ok(())),
                Err((slot, error)) => (slot, Err(error)),
            };
        if slot.has_host_vector() && !had_host_vector {
            self.is_refusing = false;
            self.bound = self.bound.saturating_add(1);
            self.counters.binds = self.counters.binds.saturating_add(1);
            self.counters.high_water = self.counters.high_water.max(self.bound);
        }
        match (was_attached, slot.is_attached()) {
            (false, true) => self.counters.attaches = self.counters.attaches.saturating_add(1),
            (true, false) => self.counters.detaches = self.counters.detaches.saturating_add(1),
            (false, false) | (true, true) => {}
        }
        self.slots.put(vector, slot);
        result
    }

    /// The same of a step that is tried again where the host refuses it; true where it was taken.
    pub(super) fn try_step(&mut self, vector: Vector, step: impl FnOnce(Slot, Means<'_>) -> Step) -> bool {
        match self.step(vector, step) {
            Ok(()) => true,
            Err(error) => {
                self.leave_unsettled(vector, error);
                false
            }
        }
    }

    /// The host has taken one vector back.
    pub(super) fn count_given_back(&mut self) {
        self.bound = self.bound.saturating_sub(1);
        self.counters.unbinds = self.counters.unbinds.saturating_add(1);
    }

    #[cold]
    pub(super) fn leave_unsettled(&mut self, vector: Vector, error: DomainError) {
        // A budget counts its refusals itself: they are none of the host's.
        if error.cause() != Cause::Budget {
            self.count_failure();
        }
        self.unsettled.insert(vector, error);
    }

    pub(super) fn count_failure(&mut self) {
        self.counters.host_failures = self.counters.host_failures.saturating_add(1);
    }
}
