//! The end of a function in any state. Nothing of it may be left.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::{PROMISED, Run};
use crate::delivery::Vector;
use crate::testing::Reference;

impl<R: Reference> Run<R> {
    /// Drops the function, while the host may refuse steps, and replaces it by another.
    pub(super) fn unplug(&mut self) {
        let is_refusing = self.failures.is_scheduled();
        let layout = self.layout.clone();
        let next = Self::plug(&layout, &self.router, &self.stage, &self.backend, &self.budget);
        drop(std::mem::replace(&mut self.function, next));
        self.failures.schedule_interrupts(0, 0);
        self.meanwhile.forget();
        if is_refusing {
            self.router.end_closed();
        }
        self.check_gone();
        let left = self.backend.unplug();
        assert!(is_refusing || left == (0, false), "left in a host that refuses nothing: {left:?}");
        (self.bound, self.relay, self.deferred_bind) = (0, None, None);
        self.model.replace();
    }

    /// Checks that nothing of a dropped function reaches the guest or costs the VM anything. The host may
    /// have refused to disable the device, which then still signals.
    fn check_gone(&self) {
        assert_eq!(self.router.in_use(), (0, 0), "eventfds attached, messages in use");
        let used = (self.budget.report().used, self.vm_budget.report().used);
        assert_eq!(used, (0, PROMISED), "of the device's budget and the VM's");
        for vector in 0..self.model.vectors() as u32 {
            self.backend.raise(Vector(vector));
        }
        self.router.pump();
        assert_eq!(self.router.take_delivered(), [], "interrupts of a function that is gone");
        assert!(!self.relay.as_deref().is_some_and(is_readable), "nothing for the event thread to do");
    }

    /// Drops the function, and checks that nothing of it is left in the host.
    pub(super) fn end(self) {
        self.failures.schedule(0);
        self.failures.schedule_interrupts(0, 0);
        let Self { function, router, backend, vm_budget, budget, .. } = self;
        drop(function);
        assert_eq!((budget.report().used, vm_budget.report().used), (0, PROMISED), "all went back");
        drop(budget);
        assert_eq!(vm_budget.report().used, 0, "the promise too");
        assert_eq!(router.in_use(), (0, 0), "eventfds attached, messages in use");
        assert_eq!(backend.in_use(), (0, false), "vectors bound, interrupts on");
    }
}

/// Whether a watched descriptor is readable.
pub(super) fn is_readable(watched: &OwnedFd) -> bool {
    let mut descriptors = [PollFd::new(watched, PollFlags::IN)];
    let ready = retry_on_intr(|| poll(&mut descriptors, Some(&Timespec::default())));
    ready.expect("a descriptor to poll") > 0
}
