//! The window: a device's capability, turned on and off in the host as a whole.

use std::fmt;
use std::io;

use super::Host;
use crate::backend::{BackendError, EventfdOwner};
use crate::counter::Increment;
use crate::delivery::Vector;
use crate::domain::error::DomainError;
use crate::domain::slot::Slot;
use crate::router::{Router, Unclosed};

/// What an embedder does around a window. [`DeviceDomain::set_window_hooks`](crate::DeviceDomain::set_window_hooks) tells when
/// they are called.
pub(in crate::domain) struct WindowHooks {
    pub(in crate::domain) before_open: Box<dyn FnMut() -> io::Result<()> + Send>,
    pub(in crate::domain) after_close: Box<dyn FnMut() + Send>,
}

impl Default for WindowHooks {
    fn default() -> Self {
        Self { before_open: Box::new(|| Ok(())), after_close: Box::new(|| ()) }
    }
}

impl fmt::Debug for WindowHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowHooks").finish_non_exhaustive()
    }
}

impl WindowHooks {
    fn before_open(&mut self, asked: u32) -> Result<(), BackendError> {
        (self.before_open)().map_err(|source| BackendError::Open { asked, source })
    }

    fn after_close(&mut self) {
        (self.after_close)();
    }
}

impl Host {
    /// Turns the capability on; true where it is on for `vectors` vectors now. All or none: where the host refuses to turn it off
    /// before it is on for more, every vector stays held.
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

    /// Turns the capability off: detach all, give the host everything back in one call, and only then look at what waits in the
    /// eventfds, and close them.
    ///
    /// Where nobody but the domain has the eventfds open once the host has everything back, live ones stay attached until then:
    /// what they are signalled is delivered, and then they are closed together. A vector that the kernel refuses to detach ends
    /// later: until then it is failed, and gets no other eventfd.
    pub(in crate::domain) fn close(&mut self, router: &dyn Router) {
        self.window_error = None;
        // They have nothing in the host, and are not to get it.
        self.owed.forget_deferred();
        if self.window == 0 {
            self.hold_all(router, |slot| matches!(slot, Slot::Detaching { .. }));
            return self.forget_settled();
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
                self.forget_settled();
                self.window_hooks.after_close();
            }
            Err(error) => {
                self.hold_all(router, |_| true);
                // A device that is shared gives its vectors back one by one, and may have got somewhere.
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

    /// With the capability off, only what the kernel has refused to detach is to be tried again.
    fn forget_settled(&mut self) {
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

    /// The device signals nothing any more: the eventfds that are attached end together.
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

    /// Closes a vector that the device has let go of.
    fn close_vector(&mut self, vector: Vector, router: &dyn Router) {
        self.try_step(vector, |slot, _| slot.close(router));
    }

    fn refuse_window(&mut self, error: DomainError) {
        self.count_failure(&error);
        self.window_error = Some(error);
    }
}
