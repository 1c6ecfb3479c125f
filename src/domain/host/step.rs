//! A step of one vector: the parts of the host that it may use, and the counters that it changes.
//!
//! Invariant: `attaches` - `detaches` is the number of vectors with an irqfd. Both are counted from a vector's state before and after
//! the step, whatever calls the step has made. Only [closing the window](super::window) detaches several irqfds at once.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Host;
use crate::backend::Backend;
use crate::budget::DeviceBudget;
use crate::counter::Increment;
use crate::delivery::Vector;
use crate::domain::error::{Cause, DomainError};
use crate::domain::owed::Later;
use crate::domain::slot::Slot;

/// The parts of a host that a step may use.
pub(super) struct Means<'host> {
    pub(super) backend: &'host mut dyn Backend,
    pub(super) budget: &'host Arc<DeviceBudget>,
    /// The epoll descriptor of the relayed vectors.
    pub(super) relay: Option<&'host OwnedFd>,
}

impl Host {
    /// Runs a step on a vector's slot, in place: a panic in the step drops nothing.
    #[inline]
    pub(super) fn step(
        &mut self,
        vector: Vector,
        step: impl FnOnce(&mut Slot, Means<'_>) -> Result<(), DomainError>,
    ) -> Result<(), DomainError> {
        let Self { slots, backend, budget, relay, .. } = self;
        let (mut had_host_vector, mut was_attached) = (false, false);
        let (mut has_host_vector, mut is_attached) = (false, false);
        let result = slots.update_one(vector, |slot| {
            (had_host_vector, was_attached) = (slot.has_host_vector(), slot.is_attached());
            let result = step(slot, Means { backend: &mut **backend, budget, relay: relay.as_deref() });
            (has_host_vector, is_attached) = (slot.has_host_vector(), slot.is_attached());
            result
        });
        let Some(result) = result else { return Ok(()) };
        if has_host_vector && !had_host_vector {
            self.is_refusing = false;
            self.bound.increment();
            self.counters.binds.increment();
            self.counters.high_water = self.counters.high_water.max(self.bound);
        }
        match (was_attached, is_attached) {
            (false, true) => self.counters.attaches.increment(),
            (true, false) => self.counters.detaches.increment(),
            (false, false) | (true, true) => {}
        }
        result
    }

    /// As [`Host::step`]. A refused step is tried again later; false if it was refused.
    pub(super) fn try_step(
        &mut self,
        vector: Vector,
        step: impl FnOnce(&mut Slot, Means<'_>) -> Result<(), DomainError>,
    ) -> bool {
        match self.step(vector, step) {
            Ok(()) => true,
            Err(error) => {
                self.leave_failed(vector, error);
                false
            }
        }
    }

    /// Counts a vector that was unbound.
    pub(super) fn count_unbind(&mut self) {
        self.bound = self.bound.saturating_sub(1);
        self.counters.unbinds.increment();
    }

    /// Records a refused step, which is tried again later.
    #[cold]
    pub(super) fn leave_failed(&mut self, vector: Vector, error: DomainError) {
        self.count_failure(&error);
        self.owed.insert(vector, Later::Failed(error));
    }

    pub(super) fn count_failure(&mut self, error: &DomainError) {
        // A budget counts its refusals itself: the host has not refused them.
        if error.cause() != Cause::Budget {
            self.counters.host_failures.increment();
        }
        self.maintenance.notify();
        self.maintenance.count_refused();
        if let Some(on_failure) = &self.on_failure {
            on_failure(error);
        }
    }
}
