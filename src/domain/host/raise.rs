//! The way up: a route for the message, a host vector for the device, and the eventfd between them.

use std::mem;
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::Host;
use crate::apic::ApicMessage;
use crate::backend::Backend;
use crate::delivery::Vector;
use crate::domain::error::DomainError;
use crate::domain::slot::Slot;
use crate::router::{Route, Router};

/// How many vectors one call delivers at the most: the domain's lock is not held for longer.
const DELIVERIES: usize = 64;

impl<B: Backend> Host<B> {
    /// Routes first, by one commit for all; then the host vectors; the irqfds last.
    pub(super) fn raise(&mut self, router: &impl Router) {
        if self.rising.is_empty() {
            return;
        }
        let mut messages = mem::take(&mut self.messages);
        let mut routes = mem::take(&mut self.routes);
        let mut rising = mem::take(&mut self.rising);
        messages.extend(rising.iter().map(|(_, message)| *message));
        router.publish(&messages, &mut routes);
        for ((vector, message), route) in rising.drain(..).zip(routes.drain(..)) {
            match route {
                Ok(route) => self.attach(vector, route, router),
                Err(error) => {
                    self.leave_unsettled(vector, error.into());
                    self.relay(vector, message);
                }
            }
        }
        messages.clear();
        (self.messages, self.routes, self.rising) = (messages, routes, rising);
    }

    fn attach(&mut self, vector: Vector, route: Route, router: &impl Router) {
        self.bind(vector);
        // A vector leaves the set that userspace watches before its irqfd attaches.
        self.hold(vector, router);
        let Some(slot @ Slot::Held { .. }) = self.slots.get_mut(vector) else {
            return router.withdraw(route);
        };
        let message = route.message();
        let step = mem::replace(slot, Slot::UNUSED).attach(route, router);
        if self.take(vector, step) {
            self.counters.attaches = self.counters.attaches.saturating_add(1);
        } else {
            self.relay(vector, message);
        }
    }

    /// Gets a host vector for a vector without one.
    fn bind(&mut self, vector: Vector) {
        let mut bound = self.try_bind(vector);
        if bound.is_err() && !self.lingering.is_empty() {
            // What lingers is there to be given back when the host is short.
            while let Some((lingering, _)) = self.lingering.pop_first() {
                self.free(lingering);
            }
            bound = self.try_bind(vector);
        }
        if let Err(error) = bound {
            self.leave_unsettled(vector, error);
        }
    }

    fn try_bind(&mut self, vector: Vector) -> Result<(), DomainError> {
        let Self { backend, slots, budget, .. } = self;
        if !matches!(slots.get(vector), None | Some(Slot::Idle { .. })) {
            return Ok(());
        }
        match slots.take(vector).bind(vector, backend, budget) {
            Ok(held) => slots.put(vector, held),
            Err((idle, error)) => {
                slots.put(vector, idle);
                return Err(error);
            }
        }
        self.bound = self.bound.saturating_add(1);
        self.counters.binds = self.counters.binds.saturating_add(1);
        self.counters.high_water = self.counters.high_water.max(self.bound);
        Ok(())
    }

    /// A vector that the kernel cannot deliver is delivered from userspace, where an embedder watches for it.
    /// It stays unsettled, so that it is tried again.
    fn relay(&mut self, vector: Vector, message: ApicMessage) {
        let Some(relay) = self.relay.clone() else { return };
        self.bind(vector);
        let Some(slot @ Slot::Held { .. }) = self.slots.get_mut(vector) else { return };
        let step = mem::replace(slot, Slot::UNUSED).relay(vector, message, &relay);
        self.take(vector, step);
    }

    /// Delivers what waits for vectors that userspace delivers. Each is read and signalled under the lock that
    /// masking takes, so none is delivered while masked; one that cannot be signalled keeps what it had.
    pub(in crate::domain) fn deliver(&mut self, router: &impl Router) {
        let Some(relay) = self.relay.clone() else { return };
        let mut ready = Vec::with_capacity(DELIVERIES);
        let now = Timespec::default();
        if epoll::wait(relay.as_fd(), spare_capacity(&mut ready), Some(&now)).is_err() {
            // Interrupted: the descriptor stays readable and the embedder comes back.
            return;
        }
        for event in ready {
            let vector = Vector(event.data.u64() as u32);
            let Some(Slot::Relayed { host, message, delivered }) = self.slots.get_mut(vector) else {
                continue;
            };
            if host.eventfd.read().is_err() {
                continue;
            }
            match router.signal(*message) {
                Ok(()) => {
                    *delivered = delivered.saturating_add(1);
                    self.counters.relayed = self.counters.relayed.saturating_add(1);
                }
                Err(error) => {
                    // It cannot overflow, having been read just now.
                    let _ = host.eventfd.write(1);
                    self.hold(vector, router);
                    self.leave_unsettled(vector, DomainError::from(error));
                }
            }
        }
    }
}
