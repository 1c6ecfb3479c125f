//! Stable eventfds behind a guest's MSI-X: no interrupt is lost, and none is delivered twice.

use std::sync::{Arc, Mutex};

use super::*;
use crate::msix::{Bar, Layout, TableSize};
use crate::testing::{Failures, FakeRouter};
use crate::{MsiMessage, MsixFunction};

const VECTORS: u16 = 70;
const ENABLE: u16 = 1 << 15;
const MASK: u32 = 1;

type Function = MsixFunction;

struct Fixture {
    function: Function,
    router: Arc<FakeRouter>,
    producer: EventfdSet,
}

fn message(vector: u16) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000, data: 0x20 + u32::from(vector) }
}

impl Fixture {
    fn new() -> Self {
        Self::with(|backend| backend)
    }

    fn with(backend: impl FnOnce(StableEventfds) -> StableEventfds) -> Self {
        let bar = |bar| Bar::new(bar).unwrap();
        let layout = Layout::new(TableSize::new(VECTORS).unwrap(), (bar(2), 0x2000), (bar(4), 0)).unwrap();
        let router = Arc::new(FakeRouter::new(Failures::default()));
        let producer = EventfdSet::new(VECTORS.into()).unwrap();
        let backend = backend(StableEventfds::new(producer.clone()));
        Self { function: MsixFunction::new(layout, router.clone(), backend), router, producer }
    }

    /// MSI-X is on, and `vector` is unmasked with a message.
    fn using(vector: u16) -> Self {
        let fixture = Self::new();
        fixture.enable(ENABLE);
        fixture.request(vector);
        fixture
    }

    fn enable(&self, control: u16) {
        self.function.write_config(2, &control.to_le_bytes());
    }

    fn set(&self, vector: u16, register: u64, value: u32) {
        self.function.write_table(u64::from(vector) * 16 + register * 4, &value.to_le_bytes());
    }

    /// The order of Linux: the message first, then the mask bit.
    fn request(&self, vector: u16) {
        let message = message(vector);
        self.set(vector, 0, message.address as u32);
        self.set(vector, 2, message.data);
        self.set(vector, 3, 0);
    }

    /// The order of Linux: the mask bit first, then a blank message.
    fn free(&self, vector: u16) {
        self.set(vector, 3, MASK);
        self.set(vector, 0, 0);
        self.set(vector, 2, 0);
    }

    fn signal(&self, vector: u16) {
        self.producer.get(Vector(vector.into())).unwrap().write(1).unwrap();
        self.router.pump();
    }

    fn delivered(&self) -> Vec<MsiMessage> {
        self.router.take_delivered()
    }

    fn is_pending(&self, vector: u16) -> bool {
        self.function.pending(u32::from(vector) / 64) >> (vector % 64) & 1 == 1
    }
}

#[test]
fn a_signal_before_the_guest_uses_the_vector_is_pending_and_delivered_once() {
    let fixture = Fixture::new();
    fixture.signal(65);
    assert!(fixture.is_pending(65));
    assert_eq!(fixture.producer.waiting(1), 1 << 1);
    fixture.enable(ENABLE);
    fixture.request(65);
    assert_eq!(fixture.delivered(), [message(65)]);
    assert_eq!(fixture.delivered(), []);
}

#[test]
fn a_signal_while_masked_waits_and_is_delivered_once() {
    let fixture = Fixture::using(3);
    fixture.set(3, 3, MASK);
    fixture.signal(3);
    fixture.signal(3);
    assert_eq!((fixture.delivered(), fixture.is_pending(3)), (vec![], true));
    fixture.set(3, 3, 0);
    assert_eq!((fixture.delivered(), fixture.is_pending(3)), (vec![message(3)], false));
    assert_eq!(fixture.delivered(), []);
}

#[test]
fn each_signal_of_a_live_vector_is_delivered_once() {
    let fixture = Fixture::using(0);
    for _ in 0..3 {
        fixture.signal(0);
        assert_eq!((fixture.delivered(), fixture.is_pending(0)), (vec![message(0)], false));
    }
}

#[test]
fn a_signal_before_and_one_after_the_vector_is_freed_are_one_interrupt() {
    let fixture = Fixture::using(5);
    fixture.set(5, 3, MASK);
    fixture.signal(5);
    fixture.free(5);
    assert!(fixture.is_pending(5));
    fixture.signal(5);
    fixture.request(5);
    assert_eq!(fixture.delivered(), [message(5)]);
    fixture.free(5);
    assert!(!fixture.is_pending(5));
    fixture.request(5);
    assert_eq!(fixture.delivered(), []);
}

#[test]
fn a_signal_before_msix_is_disabled_and_one_after_it_are_one_interrupt() {
    let fixture = Fixture::using(5);
    fixture.set(5, 3, MASK);
    fixture.signal(5);
    fixture.enable(0);
    fixture.signal(5);
    fixture.set(5, 3, 0);
    assert_eq!((fixture.delivered(), fixture.is_pending(5)), (vec![], true));
    fixture.enable(ENABLE);
    assert_eq!((fixture.delivered(), fixture.is_pending(5)), (vec![message(5)], false));
    fixture.enable(0);
    fixture.enable(ENABLE);
    assert_eq!(fixture.delivered(), []);
}

#[test]
fn a_reset_drops_waiting_interrupts_and_no_later_ones() {
    let fixture = Fixture::using(5);
    fixture.set(5, 3, MASK);
    fixture.signal(5);
    fixture.signal(69);
    fixture.function.reset(|| {});
    assert!(!fixture.is_pending(5) && !fixture.is_pending(69));
    fixture.enable(ENABLE);
    fixture.request(5);
    assert_eq!(fixture.delivered(), []);
    fixture.signal(69);
    fixture.request(69);
    assert_eq!(fixture.delivered(), [message(69)]);
}

/// Steps of a guest and a producer with one vector, checked against one pending bit.
#[test]
fn an_interrupt_is_delivered_exactly_once_in_any_order_of_guest_and_producer() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let fixture = Fixture::new();
        let (mut enabled, mut requested, mut pending) = (false, false, false);
        for _ in 0..40 {
            match random.u8(0..7) {
                0 | 1 => {
                    fixture.signal(2);
                    pending = true;
                }
                2 => {
                    fixture.request(2);
                    requested = true;
                }
                3 => {
                    fixture.set(2, 3, MASK);
                    requested = false;
                }
                4 => {
                    fixture.free(2);
                    requested = false;
                }
                5 => {
                    enabled = random.bool();
                    fixture.enable(if enabled { ENABLE } else { 0 });
                }
                _ => {
                    fixture.function.reset(|| {});
                    (enabled, requested, pending) = (false, false, false);
                }
            }
            let expected = enabled && requested && std::mem::take(&mut pending);
            assert_eq!(fixture.delivered(), vec![message(2); expected.into()]);
            assert_eq!(fixture.is_pending(2), pending);
        }
    }
}

#[test]
fn a_hook_is_called_for_each_bind_and_unbind() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let fixture = Fixture::with(|backend| {
        backend.with_hook(move |vector, binding| {
            log.lock().unwrap().push((vector.0, binding));
            Ok(())
        })
    });
    fixture.enable(ENABLE);
    fixture.request(1);
    fixture.request(2);
    fixture.free(1);
    fixture.enable(0);
    let told = std::mem::take(&mut *told.lock().unwrap());
    use Binding::{Bound, Unbound};
    assert_eq!(told, [(1, Bound), (2, Bound), (1, Unbound), (2, Unbound)]);
}

#[test]
fn a_step_that_a_hook_refuses_is_tried_again() {
    let refuse = Arc::new(Mutex::new(None));
    let refused = refuse.clone();
    let mut backend = StableEventfds::new(EventfdSet::new(4).unwrap()).with_hook(move |vector, _| {
        let is_refused = *refused.lock().unwrap() == Some(vector);
        if is_refused { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    });
    backend.open(4).unwrap();
    let eventfd = backend.eventfd(Vector(1)).unwrap();
    *refuse.lock().unwrap() = Some(Vector(1));
    assert!(matches!(backend.bind(Vector(1), &eventfd), Err(BackendError::Bind { vector: Vector(1), .. })));
    backend.bind(Vector(0), &eventfd).unwrap();
    *refuse.lock().unwrap() = None;
    backend.bind(Vector(1), &eventfd).unwrap();
    *refuse.lock().unwrap() = Some(Vector(1));
    assert!(matches!(backend.unbind(Vector(1)), Err(BackendError::Unbind { vector: Vector(1), .. })));
    match backend.close() {
        Err(BackendError::Close { unbound, .. }) => assert_eq!(unbound, [Vector(0)]),
        other => panic!("{other:?}"),
    }
    *refuse.lock().unwrap() = Some(Vector(0));
    backend.close().unwrap();
}

#[test]
fn a_vector_that_has_no_eventfd_is_refused() {
    let mut backend = StableEventfds::new(EventfdSet::new(2).unwrap());
    assert!(matches!(backend.open(3), Err(BackendError::Open { asked: 3, .. })));
    assert!(backend.eventfd(Vector(2)).is_err());
    let eventfd = EventFd::new(EFD_NONBLOCK).unwrap();
    let bound = backend.bind(Vector(2), &eventfd);
    assert!(matches!(bound, Err(BackendError::BeyondReservation { reserved: 2, .. })));
    assert_eq!((backend.pending(1), backend.pending(u32::MAX)), (0, 0));
}

#[test]
fn eventfds_that_block_are_refused() {
    let made = |flags| EventfdSet::from_eventfds(vec![EventFd::new(flags).unwrap()]);
    assert!(made(EFD_NONBLOCK).is_ok());
    assert_eq!(made(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_signal_of_a_vector_that_the_guest_does_not_use_is_in_the_snapshot() {
    let fixture = Fixture::using(3);
    for vector in [3, 5, 69] {
        fixture.producer.get(Vector(vector)).unwrap().write(1).unwrap();
    }
    fixture.router.pump();
    let state = fixture.function.suspend().unwrap();
    assert_eq!(state.pending.vectors().collect::<Vec<_>>(), [Vector(5), Vector(69)]);

    // Another process, in which the producer starts anew.
    let restored = Fixture::new();
    restored.function.restore(&state).unwrap();
    crate::state::resume_all(&*restored.router, [&restored.function as &dyn crate::state::Resume]);
    restored.request(5);
    assert_eq!(restored.router.take_delivered(), [message(5)]);
}
