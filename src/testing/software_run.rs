//! Runs operations on a real function of a device model over a fake router, and holds it against the model.

use std::sync::Arc;

use super::{Failures, FakeRouter, Model, MsixReference, Op, Reference};
use crate::delivery::Vector;
use crate::function::SoftwareMsix;
use crate::msix::{Bar, Layout, TableSize};
use crate::state::{Resume, resume_all};

/// A device model's function, and the model beside it. Operations on what it has not (eventfds, routes, budgets,
/// remapping) do nothing.
#[derive(Debug)]
pub struct SoftwareRun {
    function: SoftwareMsix<FakeRouter>,
    router: Arc<FakeRouter>,
    failures: Failures,
    model: Model<MsixReference>,
}

impl SoftwareRun {
    /// A function after power-on, with 1 to 2048 vectors.
    pub fn new(vectors: u16) -> Self {
        let size = TableSize::new(vectors).expect("1 to 2048 vectors");
        let bar = Bar::new(0).expect("a BAR");
        let layout = Layout::new(size, (bar, 0), (bar, 0x8000)).expect("a layout");
        let model = Model::new(&layout);
        Self::over(layout, model)
    }

    fn over(layout: Layout, model: Model<MsixReference>) -> Self {
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let function = SoftwareMsix::software(layout, router.clone());
        Self { function, router, failures, model }
    }

    /// Takes a step and checks everything that can be seen from outside.
    pub fn step(&mut self, op: &Op) {
        match self.model.write(op) {
            Some(write) => MsixReference::perform(&write, &self.function),
            None => self.act(op),
        }
        self.check();
    }

    fn act(&mut self, op: &Op) {
        match *op {
            Op::Raise(vector) => {
                let vector = usize::from(vector) % self.model.vectors();
                if self.model.registers().is_enabled() {
                    self.model.raise(vector);
                }
                self.function.trigger(Vector(vector as u32));
            }
            Op::Reset => {
                self.model.reset();
                self.function.reset(|| {});
            }
            Op::Suspend => {
                self.function.suspend().expect("nothing to detach");
                self.model.suspended = true;
            }
            Op::Resume => self.resume(),
            Op::Restore => {
                let state = self.function.suspend().expect("nothing to detach");
                self.model.suspended = true;
                let moved = Self::over(self.function.layout().clone(), self.model.clone());
                moved.function.restore(&state).expect("a function's own state");
                assert_eq!(moved.function.suspend().expect("nothing to detach"), state, "restored as it was");
                *self = moved;
            }
            Op::Unplug => {
                let layout = self.function.layout().clone();
                self.function = SoftwareMsix::software(layout, self.router.clone());
                self.model.replace();
            }
            Op::Fail(calls) => self.failures.schedule(calls),
            Op::Retry | Op::RetryLate => self.function.retry(),
            _ => {}
        }
    }

    fn resume(&mut self) {
        resume_all(&*self.router, [&self.function as &dyn Resume]);
        self.model.suspended = false;
    }

    /// Lets the host recover, and checks that nothing is left undelivered.
    pub fn finish(mut self) {
        self.failures.schedule(0);
        self.resume();
        self.function.retry();
        assert_eq!(self.function.unsettled(), 0, "a host that refuses nothing leaves nothing unsettled");
        self.check();
        assert_eq!(
            (self.router.commits(), self.router.in_use()),
            (0, (0, 0)),
            "it takes no route and no irqfd"
        );
    }

    fn check(&mut self) {
        for message in self.router.take_delivered() {
            assert!(self.model.deliver(message, |vector| vector), "{message} came and no vector owed it");
        }
        self.model.registers().check(&self.function);
        let pending = self.model.registers().pending(&self.function).expect("pending bits");
        let settled = self.function.unsettled() == 0;
        for (vector, pending) in pending.into_iter().enumerate() {
            let owed = self.model.owed(vector);
            assert_eq!(pending, owed, "the pending bit of vector {vector}");
            assert!(
                !(owed && settled && self.model.live(vector).is_some()),
                "vector {vector} is live, and what it owes did not come"
            );
        }
    }
}
