//! Runs operations on a real function over fakes, and holds it against the model after each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::op::Write;
use super::{Failures, FakeBackend, FakeRouter, FakeStage, Model, Op};
use crate::budget::Budget;
use crate::delivery::Vector;
use crate::domain::State;
use crate::function::MsixFunction;
use crate::message::MsiMessage;
use crate::msix::{Bar, Layout, TableSize};
use crate::remap::Remapped;
use crate::requester::RequesterId;
use crate::state::{Resume, resume_all};

/// How long freed vectors linger where they do: no run takes so long.
const LINGER: Duration = Duration::from_secs(3600);

/// Host vectors that the device was promised.
const PROMISED: u32 = 1;

/// Who the function is.
const REQUESTER: RequesterId = RequesterId(0x0100);

/// A budget's limit.
fn at_most(limit: u8) -> Option<u32> {
    (limit < u8::MAX).then_some(limit.into())
}

/// A function over fakes, and the model beside it.
#[derive(Debug)]
pub struct Run {
    function: MsixFunction<Remapped<FakeRouter, FakeStage>, FakeBackend>,
    router: Arc<FakeRouter>,
    stage: Arc<FakeStage>,
    backend: FakeBackend,
    failures: Failures,
    vm_budget: Arc<Budget>,
    budget: Arc<Budget>,
    /// Host vectors after the last step.
    bound: u32,
    model: Model,
}

impl Run {
    /// A function after power-on, with 1 to 2048 vectors.
    pub fn new(vectors: u16) -> Self {
        let size = TableSize::new(vectors).expect("1 to 2048 vectors");
        let bar = Bar::new(0).expect("a BAR");
        let layout = Layout::new(size, (bar, 0), (bar, 0x8000)).expect("a layout");
        let failures = Failures::default();
        let backend = FakeBackend::new(failures.clone());
        Self::over(layout, failures, backend, Arc::default(), Model::new(vectors))
    }

    /// A function after power-on, in a VM of its own.
    fn over(
        layout: Layout,
        failures: Failures,
        backend: FakeBackend,
        stage: Arc<FakeStage>,
        model: Model,
    ) -> Self {
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let remapped = Remapped::new(router.clone(), stage.clone(), REQUESTER);
        let vm_budget = Budget::of_vm(None);
        let budget = Budget::of_device(&vm_budget, PROMISED, None).expect("there is no limit");
        let function = MsixFunction::new(layout, Arc::new(remapped), backend.clone()).within(budget.clone());
        Self { function, router, stage, backend, failures, vm_budget, budget, bound: 0, model }
    }

    /// Takes a step and checks everything that can be seen from outside.
    pub fn step(&mut self, op: &Op) {
        match op.write(self.model.vectors() as u16) {
            Some(Write::Table(offset, data)) => self.write_table(offset, &data),
            Some(Write::Config(offset, data)) => self.write_config(offset, &data),
            None => self.act(op),
        }
        self.check();
        if !self.failures.is_scheduled() && *op == Op::Deliver {
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

    /// What is no write of the guest's to the function.
    fn act(&mut self, op: &Op) {
        match *op {
            Op::Entry { entry, version } => self.write_entry(entry, version),
            Op::Invalidate { entry, count } => self.invalidate(entry.into(), count.into()),
            Op::Raise(vector) => {
                let vector = Vector(u32::from(vector) % self.model.vectors() as u32);
                if self.backend.raise(vector) {
                    self.model.raise(vector.index());
                }
                self.router.pump();
            }
            Op::Reset => {
                self.model.reset();
                self.function.reset(|| self.backend.reset());
            }
            Op::VmBudget(limit) => self.vm_budget.set_limit(at_most(limit)),
            Op::DeviceBudget(limit) => self.budget.set_limit(at_most(limit)),
            Op::Suspend => {
                self.function.suspend().expect("the fake detaches");
                self.model.suspended = true;
            }
            Op::Resume => {
                let (commits, scheduled) = (self.router.commits(), self.failures.is_scheduled());
                self.resume();
                assert!(scheduled || self.router.commits() <= commits + 1, "one commit for all messages");
            }
            Op::Restore => self.restore(),
            Op::Fail(calls) => self.failures.schedule(calls),
            Op::Room(messages) => self.router.set_capacity(messages.into()),
            Op::Retry => self.function.retry(),
            Op::RetryLate => self.function.retry_at(Instant::now() + LINGER * 2),
            Op::Linger(linger) => {
                self.function.set_linger(if linger { LINGER } else { Duration::ZERO });
            }
            Op::Watch => drop(self.function.relay().expect("a descriptor")),
            Op::Deliver => self.deliver(),
            Op::Message { .. }
            | Op::Mask { .. }
            | Op::Clear(_)
            | Op::Control(_)
            | Op::WriteTable { .. }
            | Op::WriteConfig { .. }
            | Op::Handle { .. } => {}
        }
    }

    fn resume(&mut self) {
        resume_all(&*self.router, [&self.function as &dyn Resume]);
        self.model.suspended = false;
    }

    /// Begins anew in another VM, with the state of the function in this one.
    fn restore(&mut self) {
        let state = self.function.suspend().expect("the fake detaches");
        self.model.suspended = true;
        let again = self.function.suspend().expect("the fake detaches");
        assert_eq!(state, again, "telling what waits takes nothing");

        let failures = Failures::default();
        let (layout, backend) = (self.function.layout().clone(), self.backend.moved(failures.clone()));
        let moved = Self::over(layout, failures, backend, self.stage.clone(), self.model.clone());
        moved.function.restore(&state).expect("a function's own state");
        assert_eq!(moved.function.suspend().expect("nothing to detach"), state, "restored as it was");
        let in_host = (moved.router.in_use(), moved.backend.in_use());
        assert_eq!(in_host, ((0, 0), (0, false)), "the host knows of nothing yet");

        std::mem::replace(self, moved).end();
    }

    /// The event thread, until it finds nothing more.
    fn deliver(&self) {
        (0..self.model.vectors().div_ceil(64)).for_each(|_| self.function.deliver());
    }

    /// Lets the host recover, and checks that everything is then as it should be, and given back at the end.
    pub fn finish(mut self) {
        self.failures.schedule(0);
        self.vm_budget.set_limit(None);
        self.budget.set_limit(None);
        self.router.set_capacity(usize::MAX);
        self.resume();
        self.function.retry();
        assert_eq!(self.function.unsettled(), 0, "a host that refuses nothing leaves nothing unsettled");
        self.check();
        self.end();
    }

    /// The function goes, and nothing is left of it in the host.
    fn end(self) {
        self.failures.schedule(0);
        let Self { function, router, backend, vm_budget, budget, .. } = self;
        drop(function);
        assert_eq!((budget.report().used, vm_budget.report().used), (0, PROMISED), "all went back");
        drop(budget);
        assert_eq!(vm_budget.report().used, 0, "the promise too");
        assert_eq!(router.in_use(), (0, 0), "eventfds attached, messages in use");
        assert_eq!(backend.in_use(), (0, false), "vectors bound, interrupts on");
    }

    /// Versions from 1 on are as good as they are as messages: some are for vectors that no device may use.
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

    fn write_table(&mut self, offset: usize, data: &[u8]) {
        self.model.write_table(offset, data);
        self.function.write_table(offset as u64, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.model.write_config(offset, data);
        self.function.write_config(offset as u16, data);
    }

    fn check(&mut self) {
        let report = self.function.report();
        let state = |vector: usize| report.vectors.iter().find(|v| v.vector.index() == vector);
        // Vectors that share a message: the kernel's have delivered what they had, then userspace's.
        let order = |vector| match state(vector).map(|vector| vector.state) {
            Some(State::Live) => 0,
            Some(State::Relayed) => 1,
            _ => 2,
        };
        for message in self.router.take_delivered() {
            assert!(self.model.deliver(message, order), "{message} was delivered and no vector owed it");
        }
        let mut table = vec![0; self.model.table().len()];
        self.function.read_table(0, &mut table);
        assert_eq!(table, self.model.table(), "the table reads as it was written");

        let mut pba = vec![0; self.model.vectors().div_ceil(64) * 8];
        self.function.read_pba(0, &mut pba);
        let settled = self.function.unsettled() == 0;
        for vector in 0..pba.len() * 8 {
            let pending = pba[vector / 8] >> (vector % 8) & 1 == 1;
            if vector >= self.model.vectors() {
                assert!(!pending, "bits beyond the table are 0");
                continue;
            }
            let in_state = |wanted| state(vector).filter(|v| v.state == wanted).and_then(|v| v.message);
            let live = in_state(State::Live);
            let wanted = self.model.live(vector);
            if let Some(message) = live {
                assert_eq!(wanted, Some(message), "vector {vector} is live on what the guest wants");
                assert!(!self.model.owed(vector), "vector {vector} is live and its interrupt did not come");
            }
            if settled {
                assert_eq!(live, wanted, "vector {vector} is as the guest wants it");
            }
            if let Some(message) = in_state(State::Relayed) {
                assert_eq!(wanted, Some(message), "vector {vector} is delivered as the guest wants");
                assert!(!pending && !settled, "vector {vector} is on its way, and not by the kernel");
            } else if live.is_none() {
                let owed = self.model.owed(vector);
                assert_eq!(pending, owed, "the pending bit of vector {vector}");
            }
        }
        let (device, vm) = (self.budget.report(), self.vm_budget.report());
        assert_eq!(device.used, report.host_vectors, "the budget knows what the device has");
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
        assert_eq!(attached, report.live as usize);
        assert_eq!(users, attached, "every use of a message belongs to a live vector");
        assert_eq!(self.backend.in_use(), (report.host_vectors as usize, report.open));
    }
}
