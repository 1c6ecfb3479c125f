//! The checks after every step.

use super::unplug::is_readable;
use super::{PROMISED, Run};
use crate::delivery::Vector;
use crate::domain::{State, VectorReport};
use crate::testing::Reference;

impl<R: Reference> Run<R> {
    /// Checks that everything that is visible from outside matches the model.
    pub(super) fn check(&mut self) {
        // A read that shows a vector as masked would try again to detach it.
        self.failures.clone().refuse_all_during(|| self.check_still());
    }

    fn check_still(&mut self) {
        self.take_interrupts();
        let report = self.function.report();
        let state = |vector: usize| report.vectors.iter().find(|v| v.vector.index() == vector);
        self.model.registers().check(&self.function);
        let pending = self.model.registers().pending(&self.function);
        let refused = self.function.failed_steps() > 0;
        let is_synced = !refused && report.deferred == 0;
        let is_notified = self.deferred_bind.as_deref().is_some_and(is_readable);
        assert!(report.deferred == 0 || is_notified, "the thread is told that vectors wait for it");
        for vector in 0..self.model.vectors() {
            // If the registers show no pending bit, only a vector with an eventfd has one.
            let in_eventfd = state(vector).filter(|v| v.state == State::Held).map(|v| v.pending);
            let pending = pending.as_ref().map_or(in_eventfd, |bits| Some(bits[vector]));
            let in_state = |wanted| state(vector).filter(|v| v.state == wanted).and_then(|v| v.message);
            let live = in_state(State::Live);
            let wanted = self.model.live(vector);
            let stuck = self.model.set_stuck(vector, state(vector));
            if let (Some(message), None) = (live, stuck) {
                assert_eq!(wanted, Some(message), "vector {vector} is live on what the guest wants");
                let cookies =
                    (self.backend.cookie(Vector(vector as u32)), self.model.registers().cookie(vector));
                assert_eq!(cookies.0, cookies.1, "and vector {vector} carries what it wants");
            }
            assert!(
                live.is_none() || !self.model.owed(vector),
                "vector {vector} is live and its interrupt did not come"
            );
            if is_synced {
                assert_eq!(live, wanted, "vector {vector} is as the guest wants it");
            }
            let has_host_vector = state(vector).is_some_and(|vector| vector.state != State::Idle);
            if !refused && has_host_vector {
                assert_eq!(
                    live, wanted,
                    "vector {vector} has a host vector and need not wait for the thread"
                );
            }
            if let Some(message) = in_state(State::Relayed) {
                assert_eq!(wanted, Some(message), "vector {vector} is delivered as the guest wants");
                assert!(
                    pending != Some(true) && !is_synced,
                    "vector {vector} is on its way, and not by the kernel"
                );
            } else if let (None, Some(pending)) = (live, pending) {
                let owed = self.model.owed(vector);
                assert_eq!(pending, owed, "the pending bit of vector {vector}");
            }
        }
        let (device, vm) = (self.budget.report(), self.vm_budget.report());
        let is_detaching = |vector: &&VectorReport| vector.state == State::Detaching;
        let detaching = report.vectors.iter().filter(is_detaching).count();
        assert!(detaching == 0 || !is_synced, "what the host has refused to detach is tried again");
        assert_eq!(
            device.used,
            report.host_vectors + detaching as u32,
            "the budget knows what the device has"
        );
        assert_eq!(vm.used, device.used.max(PROMISED), "and what the VM has");
        if device.used > self.bound {
            assert!(
                device.limit.is_none_or(|limit| device.used <= limit),
                "grown beyond the device's budget"
            );
            let promised = device.used <= PROMISED;
            assert!(
                promised || vm.limit.is_none_or(|limit| vm.used <= limit),
                "grown beyond the VM's budget"
            );
        }
        self.bound = device.used;
        let (attached, users) = self.router.in_use();
        assert_eq!(attached, report.live as usize + detaching);
        let counters = &report.counters;
        assert_eq!(counters.attaches - counters.detaches, attached as u64, "every irqfd was counted once");
        assert_eq!(users, attached, "every use of a message belongs to an eventfd that is attached");
        assert_eq!(self.backend.in_use(), (report.host_vectors as usize, report.open));
    }
}
