//! The state of a passed-through function has every pending interrupt, wherever it was pending.

use std::sync::Arc;
use std::time::Duration;

use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::state::{PendingBits, Resume, prepare, resume_all};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiMessage, MsixFunction, Vector};

struct Fixture {
    function: MsixFunction,
    router: Arc<FakeRouter>,
    device: FakeBackend,
}

fn message(vector: u16) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000 | u64::from(vector) << 12, data: 0x41 }
}

impl Fixture {
    fn after_reset() -> Self {
        let bar = Bar::new(0).unwrap();
        let layout = Layout::new(TableSize::new(70).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let device = FakeBackend::new(failures);
        let function = MsixFunction::new(layout, router.clone(), device.clone());
        Self { function, router, device }
    }

    /// MSI-X on, and these vectors in use, each with a message of its own.
    fn using(vectors: impl IntoIterator<Item = u16>) -> Self {
        let fixture = Self::after_reset();
        fixture.function.write_config(2, &0x8000u16.to_le_bytes());
        vectors.into_iter().for_each(|vector| fixture.request(vector));
        fixture
    }

    fn request(&self, vector: u16) {
        let MsiMessage { address, data } = message(vector);
        let entry = u64::from(vector) * 16;
        self.function.write_table(entry, &address.to_le_bytes());
        self.function.write_table(entry + 8, &u64::from(data).to_le_bytes());
    }

    fn mask(&self, vector: u16, masked: u32) {
        self.function.write_table(u64::from(vector) * 16 + 12, &masked.to_le_bytes());
    }

    fn free(&self, vector: u16) {
        self.mask(vector, 1);
        self.function.write_table(u64::from(vector) * 16, &[0; 12]);
    }

    fn raise(&self, vector: u16) {
        self.device.raise(Vector(vector.into()));
        self.router.pump();
    }

    fn resume(&self) {
        resume_all(&*self.router, [&self.function as &dyn Resume]);
    }

    fn delivered(&self) -> Vec<MsiMessage> {
        self.router.take_delivered()
    }

    /// Another function, after power-on, with this one's state, suspended.
    fn moved(&self) -> Self {
        let moved = Self::after_reset();
        moved.function.restore(&self.function.suspend().unwrap()).unwrap();
        moved
    }
}

fn bits(vectors: &[u32]) -> PendingBits {
    let bits = vectors.iter().fold(0u128, |bits, vector| bits | 1 << vector);
    PendingBits(vec![bits as u64, (bits >> 64) as u64])
}

#[test]
fn what_waits_is_in_the_state_wherever_it_waits() {
    let fixture = Fixture::using([1, 2, 3, 65]);
    fixture.raise(1);
    assert_eq!(fixture.delivered(), [message(1)], "live: nothing waits");
    fixture.mask(2, 1);
    fixture.raise(2);
    // Freed with one waiting: in a latch, and of those that linger in the eventfd.
    fixture.mask(3, 1);
    fixture.raise(3);
    fixture.free(3);
    fixture.function.set_release_delay(Duration::from_secs(3600));
    fixture.mask(65, 1);
    fixture.raise(65);
    fixture.free(65);
    assert_eq!(fixture.function.expiring(), 1);
    assert_eq!(fixture.function.suspend().unwrap().pending, bits(&[2, 3, 65]));
}

#[test]
fn what_waits_for_a_vector_that_userspace_delivers_is_in_the_state() {
    let fixture = Fixture::after_reset();
    fixture.router.set_capacity(0);
    fixture.function.relay_fd().unwrap();
    fixture.function.write_config(2, &0x8000u16.to_le_bytes());
    fixture.request(7);
    assert_eq!(fixture.function.report().relayed, 1);
    fixture.raise(7);
    assert_eq!(fixture.function.suspend().unwrap().pending, bits(&[7]));
    fixture.function.deliver_relayed();
    assert_eq!(fixture.delivered(), [], "suspended");
    fixture.resume();
    fixture.function.deliver_relayed();
    assert_eq!(fixture.delivered(), [message(7)]);
}

#[test]
fn what_the_device_has_pending_itself_is_not_in_the_state() {
    let fixture = Fixture::using([1]);
    fixture.raise(9);
    assert_eq!(fixture.function.suspend().unwrap().pending, bits(&[]));
}

#[test]
fn while_suspended_nothing_is_delivered_and_on_resuming_each_comes_once() {
    let fixture = Fixture::using([1, 2]);
    let before = fixture.function.suspend().unwrap();
    for _ in 0..3 {
        fixture.raise(1);
        fixture.function.retry();
    }
    assert_eq!(fixture.delivered(), []);
    let after = fixture.function.suspend().unwrap();
    assert_eq!((before.pending, after.pending), (bits(&[]), bits(&[1])));
    fixture.resume();
    assert_eq!(fixture.delivered(), [message(1)]);
    fixture.resume();
    fixture.raise(2);
    assert_eq!(fixture.delivered(), [message(2)]);
}

#[test]
fn what_the_guest_does_to_a_suspended_function_is_done_when_it_is_resumed() {
    let fixture = Fixture::using([1]);
    fixture.function.suspend().unwrap();
    fixture.request(2);
    fixture.mask(1, 1);
    fixture.raise(1);
    fixture.raise(2);
    assert_eq!(fixture.delivered(), []);
    fixture.resume();
    assert_eq!(fixture.delivered(), [message(2)], "vector 1 is masked by now");
    fixture.mask(1, 0);
    assert_eq!(fixture.delivered(), [message(1)]);
}

#[test]
fn what_was_owed_comes_once_in_the_function_that_is_restored() {
    let fixture = Fixture::using([1, 2, 3]);
    fixture.mask(2, 1);
    fixture.raise(2);
    fixture.function.suspend().unwrap();
    fixture.raise(1);
    let moved = fixture.moved();
    assert_eq!(
        (moved.router.in_use(), moved.device.in_use()),
        ((0, 0), (0, false)),
        "not before it is resumed"
    );
    moved.resume();
    assert_eq!(moved.delivered(), [message(1)]);
    moved.mask(2, 0);
    assert_eq!(moved.delivered(), [message(2)]);
    moved.raise(3);
    assert_eq!(moved.delivered(), [message(3)]);
    assert_eq!(moved.function.report().live, 3);
}

#[test]
fn a_function_in_use_goes_back_to_an_earlier_state() {
    let fixture = Fixture::using([1]);
    fixture.mask(1, 1);
    fixture.raise(1);
    let earlier = fixture.function.suspend().unwrap();
    fixture.resume();
    fixture.mask(1, 0);
    assert_eq!(fixture.delivered(), [message(1)]);
    fixture.request(2);
    fixture.mask(2, 1);
    fixture.raise(2);

    fixture.function.restore(&earlier).unwrap();
    assert_eq!((fixture.router.in_use(), fixture.device.in_use()), ((0, 0), (0, false)));
    fixture.resume();
    assert_eq!(fixture.function.report().live, 0);
    fixture.mask(1, 0);
    assert_eq!(fixture.delivered(), [message(1)], "once more: it was owed then");
    fixture.request(2);
    assert_eq!(fixture.delivered(), [], "that was later");
}

#[test]
fn functions_that_are_resumed_together_cost_one_commit() {
    let vectors = 0..16;
    let fixtures: Vec<_> = (0..4).map(|_| Fixture::using(vectors.clone())).collect();
    let (vm, functions) = restored_in_one_vm(&fixtures);
    resume_all(&*vm.router, functions.iter().map(|function| function as &dyn Resume));
    assert_eq!((vm.router.commits(), vm.router.in_use()), (1, (64, 64)));
}

#[test]
fn functions_that_are_prepared_together_and_resumed_one_by_one_cost_one_commit() {
    let vectors = 0..16;
    let fixtures: Vec<_> = (0..4).map(|_| Fixture::using(vectors.clone())).collect();
    fixtures.iter().for_each(|fixture| fixture.mask(3, 1));
    fixtures.iter().for_each(|fixture| fixture.raise(3));
    let (vm, functions) = restored_in_one_vm(&fixtures);
    let prepared = prepare(&*vm.router, functions.iter().map(|function| function as &dyn Resume));
    assert_eq!((vm.router.commits(), vm.router.in_use()), (1, (0, 60)), "15 vectors of each are unmasked");
    for (resumed, function) in (1..).zip(&functions) {
        function.resume();
        assert_eq!(function.report().live, 15);
        assert_eq!((vm.router.commits(), vm.router.in_use()), (1, (resumed * 15, 60 + resumed * 15)));
    }
    drop(prepared);
    assert_eq!((vm.router.commits(), vm.router.in_use()), (1, (60, 60)));
    functions[2].write_table(3 * 16 + 12, &0u32.to_le_bytes());
    assert_eq!(vm.delivered(), [message(3)]);
}

#[test]
fn a_guard_that_is_dropped_before_its_functions_resume_holds_nothing() {
    let (vm, functions) = restored_in_one_vm(&[Fixture::using([1])]);
    drop(prepare(&*vm.router, [&functions[0] as &dyn Resume]));
    assert_eq!(vm.router.in_use(), (0, 0));
    functions[0].resume();
    assert_eq!((functions[0].report().live, vm.router.in_use()), (1, (1, 1)));
}

/// The same functions in one other VM, suspended, with a router of their own.
fn restored_in_one_vm(fixtures: &[Fixture]) -> (Fixture, Vec<MsixFunction>) {
    let states: Vec<_> = fixtures.iter().map(|fixture| fixture.function.suspend().unwrap()).collect();
    let vm = Fixture::after_reset();
    let layout = vm.function.layout();
    let functions: Vec<_> = states
        .iter()
        .map(|state| {
            let device = FakeBackend::new(Failures::default());
            let function = MsixFunction::new(layout.clone(), vm.router.clone(), device);
            function.restore(state).unwrap();
            function
        })
        .collect();
    (vm, functions)
}
