//! Runs operations on a real store of IMS slots over fakes, and holds it against a model of its own after each.

mod driver;
mod queue;
mod slots;

use std::sync::Arc;

pub use driver::{ArrayAccess, ArrayDriver, ImsUnderTest, SlotDriver};
pub use queue::{QueueAccess, QueueDriver};
pub use slots::{SlotShape, Slots};

use super::model::clings_to;
use super::{Failures, FakeBackend, FakeRouter};
use crate::delivery::Vector;
use crate::domain::State;
use crate::function::Function;
use crate::ims::SlotCount;
use crate::state::{Resume, resume_all};

/// One step; slots are taken modulo their number. `A` is how a guest gets at its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum ImsOp<A> {
    /// The guest's driver does something.
    Access(A),
    /// The device raises a slot's interrupt.
    Raise(u16),
    /// The guest resets the function.
    Reset,
    /// The embedder suspends the function.
    Suspend,
    /// The embedder resumes it.
    Resume,
    /// The function goes to another VM, and the device with it. It stays suspended.
    Restore,
    /// The next host calls fail where a bit is set, lowest first.
    Fail(u8),
    /// The VM has room for so many messages.
    Room(u8),
    /// The embedder tries again what the host refused.
    Retry,
    /// The embedder begins to watch for slots that userspace delivers.
    Watch,
    /// Its event thread delivers what waits for them.
    Deliver,
}

/// A store of slots over fakes, and the model beside it.
#[derive(Debug)]
pub struct ImsRun<D: SlotDriver> {
    function: ImsUnderTest<D::Store>,
    router: Arc<FakeRouter>,
    backend: FakeBackend,
    failures: Failures,
    driver: D,
    model: Slots,
}

impl<D: SlotDriver> ImsRun<D> {
    /// A store after power-on, of 1 to 2048 slots.
    pub fn new(shape: SlotShape, slots: u16) -> Self {
        let failures = Failures::default();
        let backend = FakeBackend::new(failures.clone());
        Self::over(failures, backend, D::new(), Slots::new(shape, slots.into()))
    }

    fn over(failures: Failures, backend: FakeBackend, driver: D, model: Slots) -> Self {
        let slots = SlotCount::new(model.len() as u32).expect("1 to 2048 slots");
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let layout = D::layout(slots, model.shape.format());
        let function = Function::new(layout, router.clone(), backend.clone());
        Self { function, router, backend, failures, driver, model }
    }

    /// Takes a step and checks everything that can be seen from outside.
    pub fn step(&mut self, op: &ImsOp<D::Access>) {
        let slots = self.model.len();
        match *op {
            ImsOp::Access(ref access) => self.driver.perform(access, &mut self.model, &self.function),
            ImsOp::Raise(slot) => {
                let slot = self.model.index(slot);
                if self.backend.raise(Vector(slot as u32)) {
                    self.model.owed[slot] = true;
                }
                self.router.pump();
            }
            ImsOp::Reset => {
                let suspended = self.model.suspended;
                self.model = Slots { suspended, ..Slots::new(self.model.shape, slots) };
                self.driver.reset();
                self.function.reset(|| self.backend.reset());
            }
            ImsOp::Suspend => {
                let refusing = self.failures.is_scheduled();
                match self.function.suspend() {
                    Ok(_) => self.model.suspended = true,
                    Err(_) => assert!(refusing && !self.model.suspended, "refused, and nothing is scheduled"),
                }
            }
            ImsOp::Resume => self.resume(),
            ImsOp::Restore => self.restore(),
            ImsOp::Fail(calls) => self.failures.schedule(calls.into()),
            ImsOp::Room(messages) => self.router.set_capacity(messages.into()),
            ImsOp::Retry => self.function.retry(),
            ImsOp::Watch => drop(self.function.relay().expect("a descriptor")),
            ImsOp::Deliver => (0..slots.div_ceil(64)).for_each(|_| self.function.deliver()),
        }
        self.check();
    }

    fn resume(&mut self) {
        resume_all(&*self.router, [&self.function as &dyn Resume]);
        self.model.suspended = false;
    }

    fn restore(&mut self) {
        // A function that cannot be suspended runs on.
        let Ok(state) = self.function.suspend() else { return };
        self.model.suspended = true;
        let failures = Failures::default();
        let (mut driver, backend) = (self.driver.clone(), self.backend.moved(failures.clone()));
        driver.moved();
        let moved = Self::over(failures, backend, driver, self.model.clone());
        moved.function.restore(&state).expect("a function's own state");
        assert_eq!(moved.function.suspend().expect("nothing to detach"), state, "restored as it was");
        std::mem::replace(self, moved).end();
    }

    /// Lets the host recover, and checks that everything is then as it should be, and given back at the end.
    pub fn finish(mut self) {
        self.failures.schedule(0);
        self.router.set_capacity(usize::MAX);
        self.resume();
        self.function.retry();
        assert_eq!(self.function.unsettled(), 0, "a host that refuses nothing leaves nothing unsettled");
        self.check();
        self.end();
    }

    fn end(self) {
        self.failures.schedule(0);
        let Self { function, router, backend, .. } = self;
        drop(function);
        assert_eq!((router.in_use(), backend.in_use()), ((0, 0), (0, false)), "all was given back");
    }

    fn check(&mut self) {
        let report = self.function.report();
        let state = |slot: usize| report.vectors.iter().find(|vector| vector.vector.index() == slot);
        for message in self.router.take_delivered() {
            // Of slots that share a message: the kernel's have delivered what they had, then userspace's.
            let is_on = |slot: usize| {
                self.model.live(slot) == Some(message) || self.model.clings[slot] == Some(message)
            };
            let owing = (0..self.model.len())
                .filter(|slot| self.model.owed[*slot] && is_on(*slot))
                .min_by_key(|slot| match state(*slot).map(|vector| vector.state) {
                    Some(State::Live) => 0,
                    Some(State::Relayed) => 1,
                    _ => 2,
                });
            let slot = owing.unwrap_or_else(|| panic!("{message} was delivered and no slot owed it"));
            self.model.owed[slot] = false;
        }
        let expected_vectors = if self.model.used { self.model.len() as u32 } else { 0 };
        assert_eq!(self.function.vectors(), expected_vectors);

        let mut bytes = vec![0; self.model.bytes.len()];
        D::read(&self.function, &mut bytes);
        let settled = self.function.unsettled() == 0;
        for slot in 0..self.model.len() {
            let pending = bytes[slot * 16 + 12] & 2 != 0;
            bytes[slot * 16 + 12] &= !2;
            let (owed, wanted) = (self.model.owed[slot], self.model.live(slot));
            let clings = state(slot).and_then(clings_to);
            self.model.clings[slot] = clings;
            match state(slot).map(|vector| (vector.state, vector.message)) {
                Some((State::Live, _)) if clings.is_some() => {
                    assert!(
                        !owed && !pending && !settled,
                        "slot {slot} is delivered, and not as the guest wants"
                    );
                }
                Some((State::Live, message)) => {
                    assert_eq!(message, wanted, "slot {slot} is live on what the guest wants");
                    assert!(!owed && !pending, "slot {slot} is live and its interrupt did not come");
                    let cookie = self.backend.cookie(Vector(slot as u32));
                    assert_eq!(cookie, self.model.cookie(slot), "and carries what it wants");
                }
                Some((State::Relayed, message)) => {
                    assert_eq!(message, wanted, "slot {slot} is delivered as the guest wants");
                    assert!(!pending && !settled, "slot {slot} is on its way, and not by the kernel");
                }
                _ => {
                    assert_eq!(pending, owed, "the pending bit of slot {slot}");
                    assert!(!settled || wanted.is_none(), "slot {slot} is as the guest wants it");
                }
            }
        }
        assert_eq!(bytes, self.model.bytes, "the slots read as they were written");
        self.driver.check(&self.function);
        let ending = report.vectors.iter().filter(|vector| vector.state == State::Ending).count();
        assert!(ending == 0 || !settled, "what the host has refused to detach is tried again");
        let attached = report.live as usize + ending;
        assert_eq!(self.router.in_use(), (attached, attached));
        assert_eq!(self.backend.in_use(), (report.host_vectors as usize, report.open));
    }
}
