//! Functions of device models in the VMM, which trigger their vectors without eventfds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vm_msi::Interrupt;
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::router::{Route, RouterError, Signalled};
use vm_msi::testing::{Failures, FakeRouter};
use vm_msi::{MsiMessage, Router, SoftwareMsix, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{ENABLE, FUNCTION_MASK, message};

struct Fixture {
    function: SoftwareMsix,
    router: Arc<FakeRouter>,
    failures: Failures,
}

impl Fixture {
    /// MSI-X is on. Vector 65 of 70 has a message and is unmasked.
    fn using_vector_65() -> Self {
        let bar = Bar::new(0).unwrap();
        let layout = Layout::new(TableSize::new(70).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let function = SoftwareMsix::software(layout, router.clone());
        let fixture = Self { function, router, failures };
        fixture.set_control(ENABLE);
        let MsiMessage { address, data } = message(65);
        fixture.function.write_table(65 * 16, &address.to_le_bytes());
        fixture.function.write_table(65 * 16 + 8, &data.to_le_bytes());
        fixture.set_mask(0);
        fixture
    }

    fn set_control(&self, value: u16) {
        self.function.write_config(2, &value.to_le_bytes());
    }

    fn set_mask(&self, control: u32) {
        self.function.write_table(65 * 16 + 12, &control.to_le_bytes());
    }

    fn trigger(&self, vector: u32) -> Vec<MsiMessage> {
        self.function.trigger(Vector(vector));
        self.router.take_delivered()
    }

    fn pba(&self) -> u128 {
        let mut data = [0; 16];
        self.function.read_pba(0, &mut data);
        u128::from_le_bytes(data)
    }
}

#[test]
fn a_trigger_delivers_the_vectors_message_with_no_route_and_no_irqfd() {
    let fixture = Fixture::using_vector_65();
    assert_eq!(fixture.trigger(65), [message(65)]);
    assert_eq!((fixture.router.commits(), fixture.router.in_use()), (0, (0, 0)));
}

#[test]
fn a_masked_vectors_trigger_waits_and_is_delivered_once_on_unmask() {
    let fixture = Fixture::using_vector_65();
    fixture.set_mask(1);
    assert_eq!((fixture.trigger(65), fixture.trigger(65)), (vec![], vec![]));
    assert_eq!(fixture.pba(), 1 << 65);
    fixture.set_mask(0);
    assert_eq!(fixture.router.take_delivered(), [message(65)]);
    assert_eq!(fixture.pba(), 0);
}

#[test]
fn function_mask_holds_triggers_until_it_is_cleared() {
    let fixture = Fixture::using_vector_65();
    fixture.set_control(ENABLE | FUNCTION_MASK);
    assert_eq!(fixture.trigger(65), []);
    fixture.set_control(ENABLE);
    assert_eq!(fixture.router.take_delivered(), [message(65)]);
}

#[test]
fn triggers_that_the_device_may_not_make_are_dropped_and_counted() {
    let fixture = Fixture::using_vector_65();
    assert_eq!(fixture.trigger(70), []);
    fixture.set_control(0);
    assert_eq!(fixture.trigger(65), []);
    assert_eq!((fixture.function.counters().dropped, fixture.pba()), (2, 0));
}

#[test]
fn a_delivery_that_the_host_refuses_waits_and_is_tried_again() {
    let fixture = Fixture::using_vector_65();
    fixture.failures.schedule(1);
    assert_eq!(fixture.trigger(65), []);
    assert_eq!((fixture.function.failed_steps(), fixture.pba()), (1, 1 << 65));
    fixture.function.retry();
    assert_eq!(fixture.router.take_delivered(), [message(65)]);
    assert_eq!(fixture.function.failed_steps(), 0);
}

#[test]
fn a_refused_delivery_counts_once_however_often_it_is_tried() {
    let fixture = Fixture::using_vector_65();
    fixture.failures.schedule(0b111);
    fixture.trigger(65);
    fixture.trigger(65);
    fixture.function.retry();
    assert_eq!((fixture.function.failed_steps(), fixture.function.counters().host_failures), (1, 3));
    // A vector that is masked waits for its guest, not for the host.
    fixture.set_mask(1);
    assert_eq!((fixture.function.failed_steps(), fixture.pba()), (0, 1 << 65));
    fixture.set_mask(0);
    assert_eq!((fixture.router.take_delivered(), fixture.function.failed_steps()), (vec![message(65)], 0));
}

#[test]
fn a_reset_clears_pending_triggers() {
    let fixture = Fixture::using_vector_65();
    fixture.set_mask(1);
    fixture.trigger(65);
    fixture.function.reset(|| {});
    assert_eq!(fixture.pba(), 0);
}

#[test]
fn no_trigger_delivers_once_the_mask_has_been_written() {
    let fixture = Fixture::using_vector_65();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut late = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fixture.function.trigger(Vector(65));
            }
        });
        for _ in 0..2000 {
            fixture.set_mask(1);
            fixture.router.take_delivered();
            std::thread::yield_now();
            late += fixture.router.take_delivered().len();
            fixture.set_mask(0);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(late, 0, "delivered after the write had returned");
}

/// A router whose `signal` is slow, with flags for its begin and end.
#[derive(Debug, Default)]
struct SlowRouter {
    begun: AtomicBool,
    ended: AtomicBool,
}

impl Router for SlowRouter {
    fn get_or_publish(&self, _: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        routes.clear();
    }

    fn attach(&self, _: &EventFd, _: &Route) -> Result<(), RouterError> {
        Ok(())
    }

    fn detach(&self, _: &EventFd, _: &Route) -> Result<(), RouterError> {
        Ok(())
    }

    fn put(&self, _: Route) {}

    fn signal(&self, _: Interrupt) -> Result<Signalled, RouterError> {
        self.begun.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        self.ended.store(true, Ordering::SeqCst);
        Ok(Signalled::Delivered)
    }
}

#[test]
fn turning_the_capability_off_waits_for_a_trigger_that_is_under_way() {
    let bar = Bar::new(0).unwrap();
    let layout = Layout::new(TableSize::new(1).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
    let router = Arc::new(SlowRouter::default());
    let function = SoftwareMsix::software(layout, router.clone());
    function.write_config(2, &ENABLE.to_le_bytes());
    function.write_table(0, &message(0).address.to_le_bytes());
    function.write_table(8, &u64::from(message(0).data).to_le_bytes());
    std::thread::scope(|scope| {
        scope.spawn(|| function.trigger(Vector(0)));
        while !router.begun.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        function.write_config(2, &0u16.to_le_bytes());
        assert!(router.ended.load(Ordering::SeqCst), "the write returned while a trigger was delivering");
    });
}
