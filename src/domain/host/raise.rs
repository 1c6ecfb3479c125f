//! The way up: a route for the message, an eventfd attached to it, and a host vector for the device that signals that.
//!
//! What most vectors do not take is `#[cold]`: the others' code is fetched again for each, as the kernel has used the cache.

use std::mem;
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::Host;
use super::step::Means;
use crate::delivery::Vector;
use crate::domain::REQUESTS;
use crate::domain::error::{Cause, DomainError};
use crate::domain::slot::Slot;
use crate::interrupt::Interrupt;
use crate::router::{Route, Router};

/// How many vectors one call delivers at the most: the domain's lock is not held for longer.
const DELIVERIES: usize = 64;

impl Host {
    /// A route first, by one commit for all whose messages are missing; then the irqfd; the host vector last. Where the host
    /// is short, what lingers is there to be given back: some of it goes, and those that were refused are tried once more.
    pub(super) fn raise(&mut self, router: &dyn Router) {
        if self.rising.is_empty() {
            return;
        }
        self.raise_once(router);
        if !self.short.is_empty() && !self.lingering.is_empty() {
            let some: Vec<_> = self.lingering.keys().copied().take(REQUESTS).collect();
            some.into_iter().for_each(|lingering| self.free(lingering));
            mem::swap(&mut self.rising, &mut self.short);
            self.rising.iter().for_each(|(vector, _)| drop(self.unsettled.remove(vector)));
            self.raise_once(router);
        }
        self.short.clear();
    }

    /// Attaches each whose message is published, up to the first whose message is not: who comes first has the first claim to
    /// room.
    fn raise_once(&mut self, router: &dyn Router) {
        let mut index = 0usize;
        while let Some((vector, message)) = self.rising.get(index).copied() {
            let Some(route) = router.find(message) else {
                self.publish_from(index, router);
                break;
            };
            self.attach(vector, route, router);
            index = index.saturating_add(1);
        }
        self.rising.clear();
    }

    /// Publishes the messages of this one and of all after it, and attaches them.
    #[cold]
    fn publish_from(&mut self, index: usize, router: &dyn Router) {
        let rising = self.rising.get(index..).unwrap_or_default().to_vec();
        let messages: Vec<_> = rising.iter().map(|(_, message)| *message).collect();
        let mut routes = Vec::with_capacity(messages.len());
        router.publish(&messages, &mut routes);
        for ((vector, message), route) in rising.into_iter().zip(routes) {
            match route {
                Ok(route) => self.attach(vector, route, router),
                Err(error) => self.refused(vector, message, error.into()),
            }
        }
    }

    fn attach(&mut self, vector: Vector, route: Route, router: &dyn Router) {
        // A vector leaves the set that userspace watches before its irqfd attaches, and has one irqfd at a time.
        if !self.hold(vector, router) {
            return router.withdraw(route);
        }
        let message = route.message();
        let is_refusing = self.is_refusing;
        let risen = self.step(vector, |slot, Means { backend, budget, .. }| match slot {
            // Not while the host refuses vectors: each would be detached again, which takes its time.
            Slot::Idle { latched: false } if !is_refusing => {
                slot.request(vector, route, router, backend, budget)
            }
            // What is latched is one interrupt with what the device has pending: both are in the eventfd first.
            _ => match slot.bind(vector, backend, budget) {
                Ok(slot) => slot.attach(route, router),
                Err(unbound) => {
                    router.withdraw(route);
                    Err(unbound)
                }
            },
        });
        if let Err(error) = risen {
            self.refused(vector, message, error);
        }
    }

    /// A vector that the kernel cannot deliver is delivered from userspace, where an embedder watches for it, and is held
    /// otherwise. It stays unsettled, so that it is tried again.
    #[cold]
    fn relay(&mut self, vector: Vector, message: Interrupt) {
        let relayed = self.step(vector, |slot, Means { backend, budget, relay }| {
            let slot = slot.bind(vector, backend, budget)?;
            match relay {
                Some(relay) => slot.relay(vector, message, relay),
                None => Ok(slot),
            }
        });
        if let Err(error) = relayed {
            self.refused(vector, message, error);
        }
    }

    /// The host has refused a vector on its way up.
    #[cold]
    fn refused(&mut self, vector: Vector, message: Interrupt, error: DomainError) {
        let cause = error.cause();
        self.leave_unsettled(vector, error);
        match cause {
            Cause::Router => return self.relay(vector, message),
            Cause::Backend => self.is_refusing = true,
            Cause::Budget | Cause::Descriptors => {}
        }
        self.short.push((vector, message));
    }

    /// Delivers what waits for vectors that userspace delivers. Each is read and signalled under the lock that
    /// masking takes, so none is delivered while masked; one that cannot be signalled keeps what it had.
    pub(in crate::domain) fn deliver(&mut self, router: &dyn Router) {
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
