//! The window: a device's capability, turned on and off in the host as a whole.

use super::Host;
use crate::backend::{Backend, BackendError, Holders};
use crate::delivery::Vector;
use crate::domain::error::DomainError;
use crate::domain::slot::Slot;
use crate::router::{Router, Unclosed};

impl Host {
    /// Turns the capability on; true where it is on for so many vectors now. All or none: where the host refuses to turn
    /// it off before it is on for more, every vector stays held.
    pub(super) fn open(&mut self, vectors: u32) -> bool {
        if vectors <= self.window {
            self.window_error = None;
            return true;
        }
        if self.window > 0 {
            return false;
        }
        match self.backend.open(vectors) {
            Ok(()) => {
                self.window = vectors;
                self.window_error = None;
                self.counters.opens = self.counters.opens.saturating_add(1);
            }
            Err(error) => self.refuse(error.into()),
        }
        self.window > 0
    }

    /// Turns the capability off: detach all, give the host everything back in one call, and only then look at
    /// what waits in the eventfds, and close them.
    ///
    /// Where nobody but the domain has the eventfds open once the host has everything back, live ones stay attached
    /// until then: what they are signalled is delivered, and then they are closed together. A vector that the kernel
    /// refuses to detach ends later: while it has not, it is unsettled, and has no other eventfd.
    pub(in crate::domain) fn close(&mut self, router: &dyn Router) {
        self.window_error = None;
        self.unsettled.clear();
        self.growing.clear();
        if self.window == 0 {
            return self.hold_all(router, |slot| matches!(slot, Slot::Ending { .. }));
        }
        self.lingering.clear();
        let together = self.backend.holders_after_close() == Holders::Domain;
        self.hold_all(router, |slot| !together || matches!(slot, Slot::Relayed { .. } | Slot::Ending { .. }));
        match self.backend.close() {
            Ok(()) => {
                self.window = 0;
                self.bound = 0;
                self.counters.closes = self.counters.closes.saturating_add(1);
                if together {
                    self.close_live(router);
                }
                self.used(|_| true).into_iter().for_each(|vector| self.shut(vector, router));
                let Self { slots, unsettled, .. } = self;
                let is_ending = |vector: &Vector| matches!(slots.get(*vector), Some(Slot::Ending { .. }));
                unsettled.retain(|vector, _| is_ending(vector));
            }
            Err(error) => {
                self.hold_all(router, |_| true);
                // A device that is shared gives its vectors back one by one, and may have got somewhere.
                if let BackendError::Close { unbound, .. } = &error {
                    for vector in unbound {
                        self.unsettled.remove(vector);
                        self.shut(*vector, router);
                        self.count_given_back();
                    }
                }
                self.refuse(error.into());
            }
        }
    }

    pub(super) fn hold_all(&mut self, router: &dyn Router, which: impl Fn(&Slot) -> bool) {
        for vector in self.used(which) {
            self.hold(vector, router);
        }
    }

    fn used(&self, which: impl Fn(&Slot) -> bool) -> Vec<Vector> {
        self.slots.iter().filter(|(_, slot)| which(slot)).map(|(vector, _)| vector).collect()
    }

    /// The device fires nothing any more: the eventfds that are attached end together.
    fn close_live(&mut self, router: &dyn Router) {
        let (mut attached, mut parted) = (Vec::new(), Vec::new());
        self.slots.update(|vector, slot| {
            if let Some((pair, share)) = slot.part() {
                attached.push(pair);
                parted.push((vector, Some(share)));
            }
        });
        let parts = attached.len();
        let unclosed = router.close(attached);
        let closed = parts.saturating_sub(unclosed.len()) as u64;
        self.counters.detaches = self.counters.detaches.saturating_add(closed);
        for Unclosed { index, eventfd, route, source } in unclosed {
            if let Some((vector, share)) = parted.get_mut(index)
                && let Some(share) = share.take()
            {
                self.slots.put(*vector, Slot::unparted((eventfd, route), share));
                self.leave_unsettled(*vector, source.into());
            }
        }
    }

    /// A vector that the device has let go of.
    fn shut(&mut self, vector: Vector, router: &dyn Router) {
        self.try_step(vector, |slot, _| slot.shut(router));
    }

    fn refuse(&mut self, error: DomainError) {
        self.count_failure();
        self.window_error = Some(error);
    }
}
