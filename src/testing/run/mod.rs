//! Runs operations on a real function over fakes, and compares it with the model after each.

mod check;
mod meanwhile;
mod unplug;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reference::{MsiReference, MsixReference, QueueReference, Reference, SlotShape, SlotsReference};
use super::{Failures, FakeBackend, FakeRouter, FakeStage, Model, Op};
use crate::budget::{DeviceBudget, VmBudget};
use crate::delivery::{Delivery, Store, Vector};
use crate::domain::{BusMaster, DeviceDomain, Latched, State};
use crate::function::InterruptFunction;
use crate::interrupt::RequesterId;
use crate::message::MsiMessage;
use crate::msi::MsiLayout;
use crate::msix::{Bar, Layout, TableSize};
use crate::remap::Remapped;
use crate::state::{Resume, resume_all};
use meanwhile::Meanwhile;

/// The release delay of freed vectors in steps that set one. Every run is shorter.
const RELEASE_DELAY: Duration = Duration::from_secs(3600);

/// Host vectors that are promised to the device.
const PROMISED: u32 = 1;

/// The requester ID of the function.
const REQUESTER: RequesterId = RequesterId(0x0100);

/// The limit of a budget.
fn at_most(limit: u8) -> Option<u32> {
    (limit < u8::MAX).then_some(limit.into())
}

/// A function, over fakes.
type Tested<R> = InterruptFunction<<R as Reference>::Registers, DeviceDomain>;

/// A function over fakes, and the model.
#[derive(Debug)]
pub struct Run<R: Reference> {
    layout: R::Layout,
    function: Tested<R>,
    router: Arc<FakeRouter>,
    stage: Arc<FakeStage>,
    backend: FakeBackend,
    failures: Failures,
    vm_budget: Arc<VmBudget>,
    budget: Arc<DeviceBudget>,
    /// Host vectors after the last step.
    bound: u32,
    /// The descriptor for relayed vectors, if the embedder watches it.
    relay: Option<Arc<OwnedFd>>,
    /// The descriptor for deferred host vectors, if the embedder watches it.
    deferred_bind: Option<Arc<OwnedFd>>,
    /// Interrupts that the device raised during host calls.
    meanwhile: Meanwhile,
    /// The messages that vectors had after the last step.
    messages: Vec<MsiMessage>,
    model: Model<R>,
}

impl Run<MsixReference> {
    /// An MSI-X function after power-on, with 1 to 2048 vectors.
    pub fn msix(vectors: u16) -> Self {
        let size = TableSize::new(vectors).expect("1 to 2048 vectors");
        let bar = Bar::new(0).expect("a BAR");
        Self::new(&Layout::new(size, (bar, 0), (bar, 0x8000)).expect("a layout"))
    }
}

impl Run<MsiReference> {
    /// An MSI function after power-on.
    pub fn msi(layout: MsiLayout) -> Self {
        Self::new(&layout)
    }
}

impl Run<SlotsReference> {
    /// An array of 1 to 65,536 IMS slots after power-on.
    pub fn slots(shape: SlotShape, slots: u32) -> Self {
        Self::new(&shape.array(slots))
    }
}

impl Run<QueueReference> {
    /// 1 to 65,536 IMS slots in guest memory after power-on.
    pub fn queue(shape: SlotShape, slots: u32) -> Self {
        Self::new(&shape.queue(slots))
    }
}

impl<R: Reference> Run<R> {
    fn new(layout: &R::Layout) -> Self {
        let (failures, model) = (Failures::default(), Model::<R>::new(layout));
        let backend = FakeBackend::with_capabilities(failures.clone(), model.registers().device());
        Self::over(layout, failures, backend, Arc::default(), model)
    }

    /// A function after power-on, in a VM of its own.
    fn over(
        layout: &R::Layout,
        failures: Failures,
        backend: FakeBackend,
        stage: Arc<FakeStage>,
        model: Model<R>,
    ) -> Self {
        let router = Arc::new(FakeRouter::new(failures.clone()).without_memory());
        let vm_budget = VmBudget::new(None);
        let budget = vm_budget.admit(PROMISED, None).expect("there is no limit");
        let function = Self::plug(layout, &router, &stage, &backend, &budget);
        let meanwhile = Meanwhile::of(&failures, &backend, &router, model.vectors());
        let (layout, bound, relay, deferred_bind, messages) = (layout.clone(), 0, None, None, Vec::new());
        Self {
            layout,
            function,
            router,
            stage,
            backend,
            failures,
            vm_budget,
            budget,
            bound,
            relay,
            deferred_bind,
            meanwhile,
            messages,
            model,
        }
    }

    /// A function after power-on.
    fn plug(
        layout: &R::Layout,
        router: &Arc<FakeRouter>,
        stage: &Arc<FakeStage>,
        backend: &FakeBackend,
        budget: &Arc<DeviceBudget>,
    ) -> Tested<R> {
        let remapped = Arc::new(Remapped::new(router.clone(), stage.clone(), REQUESTER));
        let function = InterruptFunction::try_new(layout.clone(), remapped, backend.clone());
        function.expect("fakes that can do all").with_budget(budget.clone())
    }

    /// Performs a step, and checks everything that is visible from outside.
    pub fn step(&mut self, op: &Op) {
        match self.model.write(op) {
            Some(write) => self.model.registers().perform(&write, &self.function),
            None => self.act(op),
        }
        let is_interrupted = !self.meanwhile.is_empty();
        self.check();
        if !self.failures.is_scheduled() && !is_interrupted && *op == Op::DeliverRelayed {
            let report = self.function.report();
            let relayed = report.vectors.iter().filter(|vector| vector.state == State::Relayed);
            for vector in relayed {
                assert!(
                    !self.model.owed(vector.vector.index()),
                    "vector {} was not delivered",
                    vector.vector
                );
            }
        }
    }

    /// Performs a step that is not the guest's write to the function.
    fn act(&mut self, op: &Op) {
        match *op {
            Op::Entry { entry, version } => self.write_entry(entry, version),
            Op::Invalidate { entry, count } => self.invalidate(entry.into(), count.into()),
            Op::Raise(vector) => self.raise(self.vector(vector)),
            Op::Latch(vector) => self.latch(self.vector(vector)),
            Op::Reset => {
                self.model.reset();
                self.function.reset(|| self.backend.reset());
                self.meanwhile.forget();
            }
            Op::VmBudget(limit) => self.vm_budget.set_limit(at_most(limit)),
            Op::DeviceBudget(limit) => self.budget.set_limit(at_most(limit)),
            Op::BusMaster(enabled) => {
                self.model.bus_master = BusMaster::of_command(u16::from(enabled) << 2);
                self.function.set_bus_master(self.model.bus_master);
            }
            Op::Suspend => {
                let is_refusing = self.failures.is_scheduled();
                match self.function.suspend() {
                    Ok(_) => self.model.suspended = true,
                    Err(_) => {
                        assert!(is_refusing && !self.model.suspended, "refused, and nothing is scheduled")
                    }
                }
            }
            Op::Resume => {
                let (commits, scheduled) = (self.router.commits(), self.failures.is_scheduled());
                self.resume();
                assert!(scheduled || self.router.commits() <= commits + 1, "one commit for all messages");
            }
            Op::Restore => self.restore(),
            Op::Unplug => self.unplug(),
            Op::Fail(calls) => self.failures.schedule(calls),
            Op::Interrupt { early, late } => self.failures.schedule_interrupts(early.into(), late.into()),
            Op::Room(messages) => self.router.set_capacity(messages.into()),
            Op::Retry => self.function.retry(),
            Op::RetryLate => self.function.retry_at(Instant::now() + RELEASE_DELAY * 2),
            Op::ReleaseDelay(delayed) => {
                self.function.set_release_delay(if delayed { RELEASE_DELAY } else { Duration::ZERO });
            }
            Op::WatchRelayed => self.relay = Some(self.function.relay_fd().expect("a descriptor")),
            Op::DeliverRelayed => self.deliver_relayed(),
            Op::WatchDeferred => {
                self.deferred_bind = Some(self.function.deferred_bind_fd().expect("a descriptor"))
            }
            Op::BindDeferred => self.function.bind_deferred(),
            Op::Message { .. }
            | Op::Mask { .. }
            | Op::Pasid { .. }
            | Op::Clear(_)
            | Op::Slot(_)
            | Op::Control(_)
            | Op::WriteTable { .. }
            | Op::WriteConfig { .. }
            | Op::Handle { .. } => {}
        }
    }

    fn vector(&self, vector: u16) -> Vector {
        Vector(u32::from(vector) % self.model.vectors() as u32)
    }

    fn raise(&mut self, vector: Vector) {
        if self.backend.raise(vector) {
            self.model.raise(vector.index());
        }
        self.router.pump();
    }

    /// Acts as a mediator, which does not latch interrupts of vectors that are off.
    fn latch(&mut self, vector: Vector) {
        if self.function.look(|registers| registers.delivery(vector)) == Delivery::Off {
            return;
        }
        match self.function.latch(vector) {
            Latched::Waits => {
                self.model.raise(vector.index());
                self.router.pump();
            }
            Latched::HasHostVector => self.raise(vector),
            Latched::NoSuchVector => panic!("vector {vector} exists"),
        }
    }

    fn resume(&mut self) {
        resume_all(&*self.router, [&self.function as &dyn Resume]);
        self.model.suspended = false;
    }

    /// Replaces the function by one in another VM, with the state of this one.
    fn restore(&mut self) {
        // If it cannot be suspended, the function goes on.
        let Ok(state) = self.function.suspend() else { return };
        self.model.suspended = true;
        let again = self.function.suspend().expect("the fake detaches");
        assert_eq!(state, again, "telling what waits takes nothing");
        // Interrupts that came while it was suspended are part of the state.
        self.take_interrupts();

        let failures = Failures::default();
        let (layout, backend) = (self.layout.clone(), self.backend.moved(failures.clone()));
        let restored = Self::over(&layout, failures, backend, self.stage.clone(), self.model.clone());
        restored.function.set_bus_master(self.model.bus_master);
        restored.function.restore(&state).expect("a function's own state");
        assert_eq!(restored.function.suspend().expect("nothing to detach"), state, "restored as it was");
        let in_host = (restored.router.in_use(), restored.backend.in_use());
        assert_eq!(in_host, ((0, 0), (0, false)), "the host knows of nothing yet");

        std::mem::replace(self, restored).end();
    }

    /// Delivers until no relayed interrupt is left.
    fn deliver_relayed(&self) {
        (0..self.model.vectors().div_ceil(64)).for_each(|_| self.function.deliver_relayed());
    }

    /// Lets the host recover, and checks that everything matches the model and is released at the end.
    pub fn finish(mut self) {
        self.failures.schedule(0);
        self.failures.schedule_interrupts(0, 0);
        self.vm_budget.set_limit(None);
        self.budget.set_limit(None);
        self.router.set_capacity(usize::MAX);
        self.act(&Op::BusMaster(true));
        self.resume();
        self.function.retry();
        assert_eq!(self.function.failed_steps(), 0, "a host that refuses nothing leaves no failed step");
        while self.function.deferred() > 0 {
            self.function.bind_deferred();
        }
        self.check();
        self.end();
    }

    /// From version 1 on, the version is the data of the message. Some of these vectors are invalid for a
    /// device.
    fn write_entry(&mut self, entry: u8, version: u8) {
        let message = match version {
            0 => MsiMessage::BLANK,
            _ => MsiMessage { address: 0xfee0_0000 | u64::from(entry) << 12, data: version.into() },
        };
        self.stage.write(entry, (version != 0).then_some((REQUESTER, message)));
        self.model.write_entry(entry, message);
    }

    fn invalidate(&mut self, first: usize, count: usize) {
        let entries = if count == 0 { 0..256 } else { first..(first + count).min(256) };
        self.stage.invalidate(entries.clone());
        self.model.invalidate(entries);
        self.function.invalidate();
    }
}
