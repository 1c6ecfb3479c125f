//! The window: a device's capability, turned on and off in the host as a whole.

use std::mem;

use super::Host;
use crate::backend::{Backend, BackendError};
use crate::delivery::Vector;
use crate::domain::error::DomainError;
use crate::domain::slot::Slot;
use crate::router::Router;

impl<B: Backend> Host<B> {
    /// Turns the capability on; true where it is on now.
    pub(super) fn open(&mut self, vectors: u32) -> bool {
        if self.open {
            self.window_error = None;
            return true;
        }
        match self.backend.open(vectors) {
            Ok(()) => {
                self.open = true;
                self.window_error = None;
                self.counters.opens = self.counters.opens.saturating_add(1);
            }
            Err(error) => self.refuse(error.into()),
        }
        self.open
    }

    /// Turns the capability off: detach all, give the host everything back in one call, and only then look at
    /// what waits in the eventfds, and close them.
    pub(in crate::domain) fn close(&mut self, router: &impl Router) {
        self.window_error = None;
        if !self.open {
            return;
        }
        self.unsettled.clear();
        self.lingering.clear();
        for index in 0..self.slots.len() {
            self.hold(Vector(index as u32), router);
        }
        match self.backend.close() {
            Ok(()) => {
                self.open = false;
                self.unsettled.clear();
                self.bound = 0;
                self.counters.closes = self.counters.closes.saturating_add(1);
                for slot in &mut self.slots {
                    *slot = mem::replace(slot, Slot::UNUSED).shut(router);
                }
            }
            Err(error) => {
                // A device that is shared gives its vectors back one by one, and may have got somewhere.
                if let BackendError::Close { unbound, .. } = &error {
                    unbound.iter().for_each(|vector| self.shut(*vector, router));
                }
                self.refuse(error.into());
            }
        }
    }

    /// A vector that the device has let go of.
    fn shut(&mut self, vector: Vector, router: &impl Router) {
        self.unsettled.remove(&vector);
        if let Some(slot) = self.slots.get_mut(vector.index()) {
            *slot = mem::replace(slot, Slot::UNUSED).shut(router);
            self.bound = self.bound.saturating_sub(1);
            self.counters.unbinds = self.counters.unbinds.saturating_add(1);
        }
    }

    fn refuse(&mut self, error: DomainError) {
        self.count_failure();
        self.window_error = Some(error);
    }
}
