//! Interrupts that a device raises during a host call, which no guest and no other test can order. The device
//! raises every vector when the call begins or when it ends.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use super::Run;
use crate::delivery::Vector;
use crate::domain::State;
use crate::message::MsiMessage;
use crate::testing::{Failures, FakeBackend, FakeRouter, Reference};

/// The result of raising every vector at one moment.
#[derive(Debug)]
struct Raised {
    /// How many interrupts had been delivered since the last step.
    after: usize,
    /// Interrupts that the kernel delivered at once, for vectors with an irqfd.
    delivered: Vec<MsiMessage>,
    /// Vectors without an irqfd, whose interrupts wait.
    waiting: Vec<Vector>,
}

/// These moments since the last step, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Meanwhile(Arc<Mutex<Vec<Raised>>>);

impl Meanwhile {
    /// Makes the device raise every vector when `failures` schedules interrupts.
    pub(super) fn of(
        failures: &Failures,
        backend: &FakeBackend,
        router: &Arc<FakeRouter>,
        vectors: usize,
    ) -> Self {
        let log = Self::default();
        // The fakes own the schedule, so it has only weak references to them.
        let (raised, device, router) = (log.clone(), backend.downgrade(), Arc::downgrade(router));
        failures.set_device(move || {
            if let (Some(device), Some(router)) = (device(), router.upgrade()) {
                raised.raise_all(&device, &router, vectors as u32);
            }
        });
        log
    }

    fn raise_all(&self, device: &FakeBackend, router: &FakeRouter, vectors: u32) {
        router.pump();
        let after = router.delivered();
        let raised: Vec<_> = (0..vectors).map(Vector).filter(|vector| device.raise(*vector)).collect();
        let delivered = router.pump_apart();
        let waiting = raised.into_iter().filter(|vector| device.waits(*vector)).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Raised { after, delivered, waiting });
    }

    fn take(&self) -> Vec<Raised> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the device has raised nothing since the last step.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The function was reset or replaced: it owes nothing.
    pub(super) fn forget(&self) {
        for raised in &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            raised.waiting.clear();
        }
    }
}

impl<R: Reference> Run<R> {
    /// Takes the interrupts since the last step, and checks that a vector with the message owed each of them.
    pub(super) fn take_interrupts(&mut self) {
        let report = self.function.report();
        let state = |vector: usize| report.vectors.iter().find(|v| v.vector.index() == vector);
        // For vectors with the same message: first live vectors, then relayed ones, and of these first the ones for which no
        // interrupt waits any more. One that still waits was raised again after its delivery.
        let order = |vector: usize| {
            let by_state = match state(vector).map(|vector| vector.state) {
                Some(State::Live) => 0,
                Some(State::Relayed) => 1,
                _ => 2,
            };
            (by_state, self.backend.waits(Vector(vector as u32)))
        };
        let mut delivered = self.router.take_delivered().into_iter();
        let mut taken = 0;
        for Raised { after, delivered: at_once, waiting } in self.meanwhile.take() {
            for message in delivered.by_ref().take(after - taken) {
                assert!(self.model.deliver(message, order), "{message} was delivered and no vector owed it");
            }
            taken = after;
            for message in at_once {
                // The step was not over, so a vector had its old or its new message.
                let is_new = (0..self.model.vectors()).any(|vector| self.model.live(vector) == Some(message));
                assert!(
                    is_new || self.messages.contains(&message),
                    "{message} was delivered and no vector has it"
                );
            }
            waiting.into_iter().for_each(|vector| self.model.raise(vector.index()));
        }
        for message in delivered {
            assert!(self.model.deliver(message, order), "{message} was delivered and no vector owed it");
        }
        self.messages = report.vectors.iter().filter_map(|vector| vector.message).collect();
    }
}
