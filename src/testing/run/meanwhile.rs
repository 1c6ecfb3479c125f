//! What a device raises while the host is in a call, as no guest and no test can order: every vector, as the call begins or as it
//! ends.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use super::Run;
use crate::delivery::Vector;
use crate::domain::State;
use crate::message::MsiMessage;
use crate::testing::{Failures, FakeBackend, FakeRouter, Reference};

/// What came of one moment at which the device has raised every vector.
#[derive(Debug)]
struct Raised {
    /// How many interrupts had been delivered since the last step.
    after: usize,
    /// What the kernel has delivered of it at once: the vectors that had an irqfd.
    delivered: Vec<MsiMessage>,
    /// Those that had none.
    waiting: Vec<Vector>,
}

/// Such moments since the last step, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Meanwhile(Arc<Mutex<Vec<Raised>>>);

impl Meanwhile {
    /// Has the device raise every vector where `failures` says that interrupts come.
    pub(super) fn of(
        failures: &Failures,
        backend: &FakeBackend,
        router: &Arc<FakeRouter>,
        vectors: usize,
    ) -> Self {
        let log = Self::default();
        // The schedule of failures is the fakes' own.
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

    /// Whether the device has raised something since the last step.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The function was reset, or is another one: nothing is owed of it.
    pub(super) fn forget(&self) {
        for raised in &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            raised.waiting.clear();
        }
    }
}

impl<R: Reference> Run<R> {
    /// Takes what was delivered since the last step: each interrupt was owed, by a vector that has its message.
    pub(super) fn take_interrupts(&mut self) {
        let report = self.function.report();
        let state = |vector: usize| report.vectors.iter().find(|v| v.vector.index() == vector);
        // Vectors that share a message: the kernel's have delivered what they had, then userspace's.
        let order = |vector| match state(vector).map(|vector| vector.state) {
            Some(State::Live) => 0,
            Some(State::Relayed) => 1,
            _ => 2,
        };
        let mut delivered = self.router.take_delivered().into_iter();
        let mut taken = 0;
        for Raised { after, delivered: at_once, waiting } in self.meanwhile.take() {
            for message in delivered.by_ref().take(after - taken) {
                assert!(self.model.deliver(message, order), "{message} was delivered and no vector owed it");
            }
            taken = after;
            for message in at_once {
                // The step was not over: a vector had the message that it had before, or the one that it is to have.
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
