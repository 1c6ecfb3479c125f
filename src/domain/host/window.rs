//! The window: a device's capability, enabled and disabled in the host as a whole.

use super::Host;
use crate::backend::{BackendError, EventfdOwner};
use crate::counter::Increment;
use crate::delivery::Vector;
use crate::domain::error::DomainError;
use crate::domain::slot::Slot;
use crate::router::{Router, Unclosed};

impl Host {
    /// Enables the capability; true if it is enabled for `vectors` vectors now. If a smaller window is still open because the host
    /// refused to close it, every vector stays held.
    pub(super) fn open(&mut self, vectors: u32) -> bool {
        if vectors <= self.window {
            self.window_error = None;
            return true;
        }
        if self.window > 0 {
            return false;
        }
        let opened = self.window_hooks.before_open(vectors).and_then(|()| self.backend.open(vectors));
        match opened {
            Ok(()) => {
                self.window = vectors;
                self.window_error = None;
                self.counters.opens.increment();
            }
            Err(error) => {
                self.window_hooks.after_close();
                self.refuse_window(error.into());
            }
        }
        self.window > 0
    }

    /// Disables the capability. It detaches all vectors, then releases all host vectors in one call. Only then does it latch the
    /// interrupts that wait in the eventfds, and closes these.
    ///
    /// If the domain is the only owner of the eventfds after the release, live vectors stay attached until then. Their signals are
    /// delivered, and then they are closed together. A vector that the kernel refuses to detach is failed, and gets no other eventfd
    /// until it is detached.
    pub(in crate::domain) fn close(&mut self, router: &dyn Router) {
        self.window_error = None;
        // Deferred vectors have no host vector and do not need one now.
        self.owed.forget_deferred();
        if self.window == 0 {
            self.hold_all(router, |slot| matches!(slot, Slot::Detaching { .. }));
            return self.forget_all_but_detaching();
        }
        let together = self.backend.eventfd_owner_after_close() == EventfdOwner::Domain;
        self.hold_all(router, |slot| {
            !together || matches!(slot, Slot::Relayed { .. } | Slot::Detaching { .. })
        });
        match self.backend.close() {
            Ok(()) => {
                self.window = 0;
                self.bound = 0;
                self.counters.closes.increment();
                if together {
                    self.close_live(router);
                }
                self.used(|_| true).into_iter().for_each(|vector| self.close_vector(vector, router));
                self.forget_all_but_detaching();
                self.window_hooks.after_close();
            }
            Err(error) => {
                self.hold_all(router, |_| true);
                // A shared device unbinds its vectors one by one, and may have unbound some.
                if let BackendError::Close { unbound, .. } = &error {
                    for vector in unbound {
                        self.owed.remove(*vector);
                        self.close_vector(*vector, router);
                        self.count_unbind();
                    }
                }
                self.refuse_window(error.into());
            }
        }
    }

    /// Forgets the owed steps of all vectors, except those that the kernel has refused to detach: the capability is off.
    fn forget_all_but_detaching(&mut self) {
        let Self { slots, owed, may_deliver, .. } = self;
        let is_detaching = |vector: Vector| matches!(slots.get(vector), Some(Slot::Detaching { .. }));
        owed.retain(is_detaching);
        let mut next = may_deliver.first(0..slots.capacity() as u32);
        while let Some(vector) = next {
            if !is_detaching(vector) {
                may_deliver.clear(vector);
            }
            next = may_deliver.first(vector.0.saturating_add(1)..slots.capacity() as u32);
        }
    }

    fn hold_all(&mut self, router: &dyn Router, which: impl Fn(&Slot) -> bool) {
        for vector in self.used(which) {
            self.hold(vector, router);
        }
    }

    /// Holds each vector of the sync under way.
    pub(super) fn hold_work(&mut self, router: &dyn Router) {
        let mut index = 0usize;
        while let Some(work) = self.owed.work().get(index).copied() {
            self.hold(work.vector, router);
            index.increment();
        }
    }

    fn used(&self, which: impl Fn(&Slot) -> bool) -> Vec<Vector> {
        self.slots.iter().filter(|(_, slot)| which(slot)).map(|(vector, _)| vector).collect()
    }

    /// Closes all attached eventfds together. The device signals none of them any more.
    fn close_live(&mut self, router: &dyn Router) {
        let (mut attached, mut shares) = (Vec::new(), Vec::new());
        self.slots.update(|vector, slot| {
            if let Some((pair, share)) = slot.take_attached() {
                attached.push(pair);
                shares.push((vector, Some(share)));
            }
        });
        let count = attached.len();
        let unclosed = router.close(attached);
        let closed = count.saturating_sub(unclosed.len()) as u64;
        self.counters.detaches = self.counters.detaches.saturating_add(closed);
        for Unclosed { index, eventfd, route, source } in unclosed {
            if let Some((vector, share)) = shares.get_mut(index)
                && let Some(share) = share.take()
            {
                self.slots.put(*vector, Slot::restore_attached((eventfd, route), share));
                self.leave_failed(*vector, source.into());
            }
        }
    }

    /// Closes a vector whose eventfd the device does not have any more.
    fn close_vector(&mut self, vector: Vector, router: &dyn Router) {
        self.try_step(vector, |slot, _| slot.close(router));
    }

    fn refuse_window(&mut self, error: DomainError) {
        self.count_failure(&error);
        self.window_error = Some(error);
    }
}
