//! Vectors behind a remapping stage. The guest's remapping table decides what a message means, and may change at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use vm_msi::domain::{DomainReport, State};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::refusal::Fault;
use vm_msi::remap::{Identity, Remapped, Stage, Unit, handle};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter, FakeStage};
use vm_msi::{MsiMessage, MsixFunction, RequesterId, SoftwareMsix, Vector};

use crate::fixture::ENABLE;

const REQUESTER: RequesterId = RequesterId(0x0a00);
const ENTRY: u8 = 9;
const VECTOR: u16 = 3;

struct Fixture<S: Stage> {
    function: MsixFunction,
    stage: Arc<S>,
    router: Arc<FakeRouter>,
    device: FakeBackend,
    failures: Failures,
}

fn layout() -> Layout {
    let bar = Bar::new(0).unwrap();
    Layout::new(TableSize::new(8).unwrap(), (bar, 0), (bar, 0x1000)).unwrap()
}

fn target(data: u32) -> MsiMessage {
    MsiMessage { address: 0xfee0_1000, data }
}

fn entry_bytes(message: MsiMessage) -> [u8; 16] {
    let bytes = [message.address.to_le_bytes(), u64::from(message.data).to_le_bytes()];
    bytes.as_flattened().try_into().unwrap()
}

impl<S: Stage + 'static> Fixture<S> {
    /// MSI-X is on, and the guest has written a vector's remappable message and unmasked the vector.
    fn behind(stage: S) -> Self {
        let (stage, failures) = (Arc::new(stage), Failures::default());
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let remapped = Arc::new(Remapped::new(router.clone(), stage.clone(), REQUESTER));
        let device = FakeBackend::new(failures.clone());
        let function = MsixFunction::new(layout(), remapped, device.clone());
        function.write_config(2, &ENABLE.to_le_bytes());
        let fixture = Self { function, stage, router, device, failures };
        fixture.write(handle::message(ENTRY.into()));
        fixture
    }

    /// The guest writes the whole table entry, unmasked.
    fn write(&self, message: MsiMessage) {
        self.function.write_table(u64::from(VECTOR) * 16, &entry_bytes(message));
    }

    fn set_mask(&self, control: u32) {
        self.function.write_table(u64::from(VECTOR) * 16 + 12, &control.to_le_bytes());
    }

    /// Raises an interrupt, and returns the messages that the guest receives at once.
    fn raise(&self) -> Vec<MsiMessage> {
        self.device.raise(Vector(VECTOR.into()));
        self.router.pump();
        self.router.take_delivered()
    }

    fn is_pending(&self) -> bool {
        let mut bits = [0];
        self.function.read_pba(0, &mut bits);
        bits[0] >> VECTOR & 1 != 0
    }
}

impl Fixture<FakeStage> {
    fn invalidate(&self, entry: Option<(RequesterId, MsiMessage)>) {
        self.stage.write(ENTRY, entry);
        self.stage.invalidate(0..256);
        self.function.invalidate();
    }

    /// Does what a guest does: it writes the remapping entry, and then invalidates it.
    fn point_entry_at(&self, data: u32) {
        self.invalidate(Some((REQUESTER, target(data))));
    }
}

fn faults(report: &DomainReport) -> (u64, u64) {
    (report.counters.remapping_faults, report.counters.host_failures)
}

#[test]
fn a_vector_whose_message_names_an_entry_is_live_on_the_entrys_message_by_an_irqfd() {
    let fixture = Fixture::behind(FakeStage::default());
    fixture.point_entry_at(0x41);
    assert_eq!(fixture.raise(), [target(0x41)]);
    assert_eq!(fixture.router.in_use(), (1, 1), "the kernel delivers");
    assert_eq!(fixture.function.report().vectors[0].message, Some(target(0x41)));
}

#[test]
fn an_invalidation_moves_a_live_vector_which_the_guests_write_of_the_entry_alone_does_not() {
    let fixture = Fixture::behind(FakeStage::default());
    fixture.point_entry_at(0x41);
    fixture.stage.write(ENTRY, Some((REQUESTER, target(0x42))));
    assert_eq!(fixture.raise(), [target(0x41)], "cached");
    fixture.point_entry_at(0x42);
    assert_eq!(fixture.raise(), [target(0x42)]);
}

#[test]
fn an_entry_that_is_not_present_holds_its_vector_until_an_invalidation_makes_it_so() {
    let fixture = Fixture::behind(FakeStage::default());
    assert_eq!(fixture.raise(), []);
    assert_eq!(faults(&fixture.function.report()), (1, 0));
    assert!(fixture.is_pending());
    assert_eq!(fixture.function.failed_steps(), 0, "the guest's doing, no failure of the host");
    fixture.point_entry_at(0x41);
    assert_eq!(fixture.router.take_delivered(), [target(0x41)]);

    fixture.invalidate(None);
    assert_eq!(fixture.raise(), []);
    assert!(fixture.is_pending());
    assert_eq!(fixture.router.in_use(), (0, 0));
    fixture.point_entry_at(0x43);
    assert_eq!(fixture.router.take_delivered(), [target(0x43)]);
    assert_eq!(faults(&fixture.function.report()), (2, 0));
}

#[test]
fn an_entry_of_another_function_delivers_nothing() {
    let fixture = Fixture::behind(FakeStage::default());
    fixture.invalidate(Some((RequesterId(0x0a01), target(0x41))));
    assert_eq!(fixture.raise(), []);
    assert_eq!(faults(&fixture.function.report()).0, 2);
}

#[test]
fn an_entry_that_is_no_interrupt_never_reaches_the_routing_table() {
    let fixture = Fixture::behind(FakeStage::default());
    fixture.point_entry_at(0x0f);
    assert_eq!((fixture.raise(), fixture.router.commits()), (vec![], 0));
    assert_eq!(fixture.function.report().counters.invalid_messages, 1);
}

#[test]
fn an_invalidation_that_changes_nothing_of_a_vector_costs_no_call_to_the_host() {
    let fixture = Fixture::behind(FakeStage::default());
    fixture.point_entry_at(0x41);
    let before = fixture.function.report().counters;
    fixture.failures.schedule(u32::MAX);
    for _ in 0..100 {
        fixture.point_entry_at(0x41);
    }
    assert_eq!(fixture.function.report().counters, before);
    fixture.failures.schedule(0);
    assert_eq!(fixture.raise(), [target(0x41)]);
}

#[test]
fn a_vector_that_userspace_delivers_moves_too() {
    let fixture = Fixture::behind(FakeStage::default());
    fixture.router.set_capacity(0);
    let _relay = fixture.function.relay_fd().unwrap();
    fixture.point_entry_at(0x41);
    assert_eq!(fixture.function.report().vectors[0].state, State::Relayed);
    fixture.device.raise(Vector(VECTOR.into()));
    fixture.point_entry_at(0x42);
    fixture.function.deliver_relayed();
    assert_eq!(fixture.router.take_delivered(), [target(0x42)]);
    fixture.device.raise(Vector(VECTOR.into()));
    fixture.invalidate(None);
    fixture.function.deliver_relayed();
    assert_eq!((fixture.router.take_delivered(), fixture.is_pending()), (vec![], true));
}

#[test]
fn a_device_of_the_vmms_own_signals_what_its_entry_says_now() {
    let (stage, router) = (Arc::new(FakeStage::default()), Arc::new(FakeRouter::new(Failures::default())));
    let remapped = Arc::new(Remapped::new(router.clone(), stage.clone(), REQUESTER));
    let function = SoftwareMsix::software(layout(), remapped);
    function.write_config(2, &ENABLE.to_le_bytes());
    function.write_table(u64::from(VECTOR) * 16, &entry_bytes(handle::message(ENTRY.into())));
    function.trigger(Vector(VECTOR.into()));
    assert_eq!((router.take_delivered(), function.failed_steps()), (vec![], 0), "not present: it waits");
    for data in [0x41, 0x42] {
        stage.write(ENTRY, Some((REQUESTER, target(data))));
        stage.invalidate(0..256);
        function.invalidate();
        function.trigger(Vector(VECTOR.into()));
        let delivered = if data == 0x41 { vec![target(data); 2] } else { vec![target(data)] };
        assert_eq!(router.take_delivered(), delivered);
    }
}

#[test]
fn the_identity_stage_does_not_translate_a_message() {
    let fixture = Fixture::behind(Identity::default());
    assert_eq!(fixture.raise(), []);
    assert_eq!(fixture.function.report().counters.invalid_messages, 1, "nothing here reads such a format");
    fixture.write(target(0x41));
    assert_eq!(fixture.router.take_delivered(), [target(0x41)]);
}

#[test]
fn of_two_stages_in_a_row_the_functions_own_translates_first() {
    let stages = [FakeStage::default(), FakeStage::default()].map(Arc::new);
    let messages = [handle::message(20), target(0x41)];
    for (stage, (entry, message)) in stages.iter().zip([ENTRY, 20].into_iter().zip(messages)) {
        stage.write(entry, Some((REQUESTER, message)));
        stage.invalidate(0..256);
    }
    let [own, outer] = stages;
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let outer = Arc::new(Remapped::new(router, outer, REQUESTER));
    let chain = Remapped::new(outer, own, REQUESTER);
    let translated = vm_msi::Router::translate(&chain, handle::message(ENTRY.into()));
    assert_eq!(translated.unwrap().message(), target(0x41));
}

#[test]
fn no_old_translation_delivers_once_invalidate_has_returned_whatever_the_guest_does_meanwhile() {
    let fixture = Fixture::behind(FakeStage::default());
    fixture.point_entry_at(0x41);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fixture.set_mask(1);
                fixture.set_mask(0);
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fixture.device.raise(Vector(VECTOR.into()));
                fixture.router.pump();
            }
        });
        let mut late = Vec::new();
        for round in 0..1000 {
            let data = 0x40 + round % 64;
            fixture.point_entry_at(data);
            fixture.router.take_delivered();
            thread::yield_now();
            late.extend(fixture.router.take_delivered().into_iter().filter(|now| *now != target(data)));
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(late, [], "delivered by an old translation");
    });
}

/// A remapping unit whose next translation is slow once it is armed, and returns what it has read before the delay.
#[derive(Default)]
struct SlowStage {
    data: AtomicU32,
    armed: AtomicBool,
    begun: AtomicBool,
}

impl Stage for SlowStage {
    fn translate(&self, _: RequesterId, message: MsiMessage) -> Result<MsiMessage, Fault> {
        if handle::index(message)?.is_none() {
            return Ok(message);
        }
        let found = target(self.data.load(Ordering::SeqCst));
        if self.armed.swap(false, Ordering::SeqCst) {
            self.begun.store(true, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(100));
        }
        Ok(found)
    }
}

#[test]
fn an_unmask_with_an_old_translation_is_corrected_before_invalidate_returns() {
    let stage = SlowStage::default();
    stage.data.store(0x41, Ordering::SeqCst);
    let fixture = Fixture::behind(stage);
    fixture.set_mask(1);
    fixture.stage.armed.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let unmask = scope.spawn(|| fixture.set_mask(0));
        while !fixture.stage.begun.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        fixture.stage.data.store(0x42, Ordering::SeqCst);
        fixture.function.invalidate();
        assert_eq!(fixture.raise(), [target(0x42)]);
        unmask.join().unwrap();
        assert_eq!(fixture.raise(), [target(0x42)], "the unmask came last, and with what it had found first");
    });
}

#[test]
fn an_invalidation_of_a_unit_reaches_every_function_behind_it_and_no_other() {
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let unit = Unit::new(Arc::new(FakeStage::default()));
    let entry = |requester, data| unit.stage().write(ENTRY, Some((requester, target(data))));
    let device = || FakeBackend::new(Failures::default());
    let make = |router: Arc<Remapped>| MsixFunction::try_new(layout(), router, device());
    let functions =
        [1, 2, 3].map(|requester| unit.admit(router.clone(), RequesterId(requester), make).unwrap());
    let software =
        unit.admit(router.clone(), REQUESTER, |router| SoftwareMsix::try_software(layout(), router)).unwrap();
    let outside = unit.admit(router.clone(), RequesterId(4), make).unwrap();
    drop(outside);
    for function in &functions {
        function.write_config(2, &ENABLE.to_le_bytes());
        function.write_table(0, &entry_bytes(handle::message(ENTRY.into())));
    }
    software.write_config(2, &ENABLE.to_le_bytes());
    software.write_table(0, &entry_bytes(handle::message(ENTRY.into())));
    software.trigger(Vector(0));
    let live = || functions.each_ref().map(|function| function.report().live);

    // One entry, which each of them has in turn.
    for (index, requester) in [1, 2, 3].map(RequesterId).into_iter().enumerate() {
        entry(requester, 0x41);
        assert_eq!(live().into_iter().filter(|live| *live > 0).count(), usize::from(index > 0), "not yet");
        unit.invalidate(|stage| stage.invalidate(0..256));
        let mut expected = [0; 3];
        expected[index] = 1;
        assert_eq!(live(), expected, "the last one is not on what is no longer its own");
    }
    entry(REQUESTER, 0x42);
    assert_eq!(router.take_delivered(), []);
    unit.invalidate(|stage| stage.invalidate(0..256));
    assert_eq!((router.take_delivered(), live()), (vec![target(0x42)], [0; 3]));
    assert!(unit.admit(router.clone(), REQUESTER, |_| Err::<SoftwareMsix, _>(())).is_err());
}

/// A function may be made and dropped while the others are invalidated, because the unit holds no lock on its list meanwhile.
#[test]
fn functions_may_come_and_go_while_a_unit_is_invalidated() {
    let unit = Unit::new(Arc::new(FakeStage::default()));
    let router = Arc::new(FakeRouter::new(Failures::default()));
    thread::scope(|scope| {
        let telling =
            scope.spawn(|| (0..2000).for_each(|_| unit.invalidate(|stage| stage.invalidate(0..256))));
        while !telling.is_finished() {
            let make = |router: Arc<Remapped>| {
                MsixFunction::try_new(layout(), router, FakeBackend::new(Failures::default()))
            };
            let function = unit.admit(router.clone(), REQUESTER, make).unwrap();
            function.write_config(2, &ENABLE.to_le_bytes());
            function.write_table(0, &entry_bytes(target(0x41)));
            assert_eq!(function.report().live, 1);
        }
    });
    assert_eq!(router.in_use(), (0, 0));
}
