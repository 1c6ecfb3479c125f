//! Attaching: a route for the message, an eventfd attached to it, and a host vector that signals the eventfd.
//!
//! Code that most vectors do not need is `#[cold]`. A system call evicts this code from the first-level cache, so each of its cache
//! lines is fetched again for each vector.

use std::collections::BTreeSet;
use std::mem;
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use vmm_sys_util::eventfd::EventFd;

use super::step::Means;
use super::{BATCH, Host};
use crate::counter::Increment;
use crate::delivery::Vector;
use crate::domain::error::{Cause, DomainError};
use crate::domain::owed::Work;
use crate::domain::slot::Slot;
use crate::interrupt::{Interrupt, Target};
use crate::router::{Route, Router, Signalled};

/// How many vectors one call relays at most. It bounds the time under the domain's lock, and for which other functions of the event
/// thread wait.
const DELIVERIES: usize = 64;

/// Writes an interrupt back to the eventfd that it was read from, when this is dropped: the router has refused it or has panicked.
struct PutBack<'a>(&'a EventFd);

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        // It cannot overflow: the eventfd was empty just now.
        let _ = self.0.write(1);
    }
}

impl Host {
    /// Attaches each vector of the sync that has a target: its route first, then the irqfd, the host vector last. One commit publishes
    /// all missing messages. If the host refuses vectors, some expiring vectors are released, and the refused ones are tried once more.
    pub(super) fn attach_ready(&mut self, router: &dyn Router) {
        // A panic may have left vectors here.
        self.refused.clear();
        self.attach_all(router);
        if !self.refused.is_empty() && self.owed.expiring().next().is_some() {
            let some: Vec<_> = self.owed.expiring().map(|(vector, _)| vector).take(BATCH).collect();
            some.into_iter().for_each(|vector| self.release(vector));
            let again: BTreeSet<Vector> = self.refused.drain(..).collect();
            // Only the refused vectors, without the errors of the first try.
            for work in self.owed.work_mut().iter_mut().filter(|work| !again.contains(&work.vector)) {
                work.target = None;
            }
            again.into_iter().for_each(|vector| drop(self.owed.remove(vector)));
            self.attach_all(router);
        }
        self.refused.clear();
    }

    /// Attaches each vector whose message is published. From the first missing message on, all are published together, so that the
    /// first vector gets the first free route.
    fn attach_all(&mut self, router: &dyn Router) {
        let mut index = 0usize;
        while let Some(Work { vector, target }) = self.owed.work().get(index).copied() {
            match target {
                None => {}
                Some(Target::Interrupt(interrupt)) => {
                    let Some(route) = router.get(interrupt) else { return self.publish_from(index, router) };
                    self.attach(vector, route, router);
                }
                Some(Target::Memory(_)) => self.relay(vector, target),
            }
            index.increment();
        }
    }

    /// Publishes the messages of the vectors from `index` on, and attaches them.
    #[cold]
    fn publish_from(&mut self, index: usize, router: &dyn Router) {
        let ready = self.owed.work().get(index..).unwrap_or_default().to_vec();
        let interrupt = |work: &Work| match work.target {
            Some(Target::Interrupt(interrupt)) => Some(interrupt),
            Some(Target::Memory(_)) | None => None,
        };
        let messages: Vec<Interrupt> = ready.iter().filter_map(interrupt).collect();
        let mut routes = Vec::with_capacity(messages.len());
        router.get_or_publish(&messages, &mut routes);
        let mut routes = routes.into_iter();
        for Work { vector, target } in ready {
            match target {
                None => {}
                Some(Target::Memory(_)) => self.relay(vector, target),
                Some(Target::Interrupt(_)) => match routes.next() {
                    Some(Ok(route)) => self.attach(vector, route, router),
                    Some(Err(error)) => self.refuse_vector(vector, target, error.into()),
                    // The router has answered for fewer messages. The vector's next sync asks again.
                    None => {}
                },
            }
        }
    }

    fn attach(&mut self, vector: Vector, route: Route, router: &dyn Router) {
        // A relayed vector leaves the epoll set before its irqfd attaches. A live vector is detached from its old route.
        if !self.hold(vector, router) {
            return router.put(route);
        }
        let target = Target::Interrupt(route.message());
        let is_refusing = self.is_refusing;
        let attached = self.step(vector, |slot, Means { backend, budget, .. }| match slot {
            // Not while the host refuses vectors: each would have to be detached again, which takes long.
            Slot::Idle { latched: false } if !is_refusing => {
                slot.request(vector, route, router, backend, budget)
            }
            // Latched and pending in the device are one interrupt: both go into the eventfd before it is attached.
            _ => match slot.bind(vector, backend, budget) {
                Ok(()) => slot.attach(route, router),
                Err(error) => {
                    router.put(route);
                    Err(error)
                }
            },
        });
        if let Err(error) = attached {
            self.refuse_vector(vector, Some(target), error);
        }
    }

    /// Relays a vector that the kernel cannot deliver, or holds it if no embedder relays vectors.
    ///
    /// A vector without a route stays failed, so that it is tried again. A vector whose message is a write to memory is not failed:
    /// relaying is the only way to deliver it.
    #[cold]
    fn relay(&mut self, vector: Vector, target: Option<Target>) {
        let Some(target) = target else { return };
        let relayed = self.step(vector, |slot, Means { backend, budget, relay }| {
            slot.bind(vector, backend, budget)?;
            match (relay, target) {
                (Some(_), _) | (None, Target::Memory(_)) => slot.relay(vector, target, relay),
                (None, Target::Interrupt(_)) => Ok(()),
            }
        });
        if let Err(error) = relayed {
            self.refuse_vector(vector, Some(target), error);
        }
    }

    /// Records that the host has refused to attach a vector.
    #[cold]
    fn refuse_vector(&mut self, vector: Vector, target: Option<Target>, error: DomainError) {
        let cause = error.cause();
        self.leave_failed(vector, error);
        match cause {
            Cause::Router => return self.relay(vector, target),
            Cause::Backend => self.is_refusing = true,
            Cause::Budget | Cause::Descriptors => {}
        }
        self.refused.push(vector);
    }

    /// Delivers the interrupts of relayed vectors. Masking takes the same lock, so none is delivered while masked.
    ///
    /// Each eventfd is read before its message is sent. A signal between the two is delivered once more; in the other order it would
    /// be lost. An interrupt that the router refuses is written back and waits.
    pub(in crate::domain) fn deliver_relayed(&mut self, router: &dyn Router) {
        let Some(relay) = self.relay.clone() else { return };
        let mut ready = Vec::with_capacity(DELIVERIES);
        let now = Timespec::default();
        if epoll::wait(relay.as_fd(), spare_capacity(&mut ready), Some(&now)).is_err() {
            // Interrupted. The descriptor stays readable, so the embedder calls again.
            return;
        }
        for event in ready {
            let vector = Vector(event.data.u64() as u32);
            let Some(Slot::Relayed { host, target, delivered }) = self.slots.get_mut(vector) else {
                continue;
            };
            if host.eventfd.read().is_err() {
                continue;
            }
            let put_back = PutBack(&host.eventfd);
            let signalled = match *target {
                Target::Interrupt(interrupt) => router.signal(interrupt),
                Target::Memory(message) => {
                    router.write_memory(message);
                    Ok(Signalled::Delivered)
                }
            };
            match signalled {
                Ok(Signalled::Delivered) => {
                    mem::forget(put_back);
                    delivered.increment();
                    self.counters.relayed.increment();
                }
                Ok(Signalled::NotAccepted) => {
                    mem::forget(put_back);
                    self.counters.unaccepted.increment();
                }
                Err(error) => {
                    drop(put_back);
                    self.hold(vector, router);
                    self.leave_failed(vector, DomainError::from(error));
                }
            }
        }
    }
}
