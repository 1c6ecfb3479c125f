//! Runs operations on a real function of a device model over a fake router, and compares it with the model.

use std::sync::Arc;

use super::reference::{MsiReference, MsixReference, QueueReference, Reference, SlotShape, SlotsReference};
use super::{Failures, FakeRouter, Model, Op};
use crate::delivery::Vector;
use crate::domain::{BusMaster, SoftwareDomain};
use crate::function::InterruptFunction;
use crate::msi::MsiLayout;
use crate::msix::{Bar, Layout, TableSize};
use crate::state::{Resume, resume_all};

/// A function of a device model, over a fake router.
type Tested<R> = InterruptFunction<<R as Reference>::Registers, SoftwareDomain>;

/// A device model's function, and the model. Operations on eventfds, routes, budgets and remapping do
/// nothing, because the function has none.
#[derive(Debug)]
pub struct SoftwareRun<R: Reference> {
    function: Tested<R>,
    router: Arc<FakeRouter>,
    failures: Failures,
    model: Model<R>,
    layout: R::Layout,
}

impl SoftwareRun<MsixReference> {
    /// An MSI-X function after power-on, with 1 to 2048 vectors.
    pub fn msix(vectors: u16) -> Self {
        let size = TableSize::new(vectors).expect("1 to 2048 vectors");
        let bar = Bar::new(0).expect("a BAR");
        Self::new(Layout::new(size, (bar, 0), (bar, 0x8000)).expect("a layout"))
    }
}

impl SoftwareRun<MsiReference> {
    /// An MSI function after power-on.
    pub fn msi(layout: MsiLayout) -> Self {
        Self::new(layout)
    }
}

impl SoftwareRun<SlotsReference> {
    /// An array of 1 to 65,536 IMS slots after power-on.
    pub fn slots(shape: SlotShape, slots: u32) -> Self {
        Self::new(shape.array(slots))
    }
}

impl SoftwareRun<QueueReference> {
    /// 1 to 65,536 IMS slots in guest memory after power-on.
    pub fn queue(shape: SlotShape, slots: u32) -> Self {
        Self::new(shape.queue(slots))
    }
}

impl<R: Reference> SoftwareRun<R> {
    fn new(layout: R::Layout) -> Self {
        let model = Model::new(&layout);
        Self::over(layout, model)
    }

    fn over(layout: R::Layout, model: Model<R>) -> Self {
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()).without_memory());
        let function = InterruptFunction::software(layout.clone(), router.clone());
        function.set_bus_master(model.bus_master);
        Self { function, router, failures, model, layout }
    }

    /// Performs a step, and checks everything that is visible from outside.
    pub fn step(&mut self, op: &Op) {
        match self.model.write(op) {
            Some(write) => self.model.registers().perform(&write, &self.function),
            None => self.act(op),
        }
        self.check();
    }

    fn act(&mut self, op: &Op) {
        match *op {
            Op::Raise(vector) => {
                let vector = usize::from(vector) % self.model.vectors();
                // With MSI, only as many vectors as the guest has allocated.
                if self.model.registers().is_enabled() && vector < self.function.vectors() as usize {
                    self.model.raise(vector);
                }
                self.function.trigger(Vector(vector as u32));
            }
            Op::Reset => {
                self.model.reset();
                self.function.reset(|| {});
            }
            Op::BusMaster(enabled) => {
                self.model.bus_master = BusMaster::of_command(u16::from(enabled) << 2);
                self.function.set_bus_master(self.model.bus_master);
            }
            Op::Suspend => {
                self.function.suspend().expect("nothing to detach");
                self.model.suspended = true;
            }
            Op::Resume => self.resume(),
            Op::Restore => {
                let state = self.function.suspend().expect("nothing to detach");
                self.model.suspended = true;
                let restored = Self::over(self.layout.clone(), self.model.clone());
                restored.function.restore(&state).expect("a function's own state");
                assert_eq!(
                    restored.function.suspend().expect("nothing to detach"),
                    state,
                    "restored as it was"
                );
                *self = restored;
            }
            Op::Unplug => {
                self.function = InterruptFunction::software(self.layout.clone(), self.router.clone());
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

    /// Lets the host recover, and checks that no interrupt is left.
    pub fn finish(mut self) {
        self.failures.schedule(0);
        self.act(&Op::BusMaster(true));
        self.resume();
        self.function.retry();
        assert_eq!(self.function.failed_steps(), 0, "a host that refuses nothing leaves no failed step");
        self.check();
        assert_eq!(
            (self.router.commits(), self.router.in_use()),
            (0, (0, 0)),
            "it takes no route and no irqfd"
        );
    }

    fn check(&mut self) {
        // For vectors with the same message: vectors that do not wait any more come first.
        let waits = |vector: usize| self.function.pending(vector as u32 / 64) >> (vector % 64) & 1;
        for message in self.router.take_delivered() {
            assert!(self.model.deliver(message, waits), "{message} came and no vector owed it");
        }
        self.model.registers().check(&self.function);
        let pending = self.model.registers().pending(&self.function);
        // A live vector owes an interrupt only if the host refused to deliver it. It counts once, however
        // often it was tried.
        let mut refused = 0;
        for vector in 0..self.model.vectors() {
            let owed = self.model.owed(vector);
            if let Some(pending) = &pending {
                assert_eq!(pending[vector], owed, "the pending bit of vector {vector}");
            }
            refused += usize::from(owed && self.model.live(vector).is_some());
        }
        assert_eq!(self.function.failed_steps(), refused, "vectors that are live and owe an interrupt");
    }
}
