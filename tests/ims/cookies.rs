//! What a slot's interrupts carry beside their message: it is with the device before the first of them.

use std::sync::Arc;

use vm_msi::backend::{BackendError, Capabilities, Cookie};
use vm_msi::domain::Cause;
use vm_msi::ims::ControlFormat;
use vm_msi::pool::{HostVector, LogicalFunction, Pool};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{Backend, ImsFunction, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{Fixture, MASK, PENDING, layout, message};

const SLOT: u32 = 40_000;

/// PASID enable, and the PASID.
fn carrying(pasid: u32) -> u32 {
    pasid << 12 | 1 << 3
}

#[test]
fn a_cookie_is_with_the_device_before_the_slot_is_live() {
    let fixture = Fixture::after_reset(ControlFormat::DSA);
    fixture.set_message(SLOT, message(SLOT));
    fixture.set_control(SLOT, carrying(0xabcde) | MASK);
    assert_eq!(fixture.function.cookie(Vector(SLOT)), Some(Cookie(0xabcde)));
    assert_eq!(fixture.device.cookie(Vector(SLOT)), None, "the host is asked for nothing while it is masked");
    fixture.set_control(SLOT, carrying(0xabcde));
    assert_eq!(fixture.device.cookie(Vector(SLOT)), Some(Cookie(0xabcde)));
    assert_eq!(fixture.raise(SLOT), [message(SLOT)]);
}

#[test]
fn another_cookie_takes_another_eventfd_and_loses_nothing() {
    let fixture = Fixture::using([SLOT]);
    let binds = fixture.function.report().counters.binds;
    fixture.set_control(SLOT, MASK);
    assert_eq!(fixture.raise(SLOT), []);
    fixture.set_control(SLOT, carrying(7));
    assert_eq!(fixture.delivered(), [message(SLOT)], "what waited came");
    assert_eq!(fixture.device.cookie(Vector(SLOT)), Some(Cookie(7)));
    assert_eq!(fixture.function.report().counters.binds, binds + 1);
    // While it is live, also to none; and the same one again costs nothing.
    fixture.set_control(SLOT, 7 << 12);
    assert_eq!((fixture.device.cookie(Vector(SLOT)), fixture.raise(SLOT)), (None, vec![message(SLOT)]));
    let counters = fixture.function.report().counters;
    fixture.set_control(SLOT, 8 << 12);
    assert_eq!(fixture.function.report().counters, counters);
}

#[test]
fn a_slot_whose_host_refuses_on_the_way_to_another_cookie_is_tried_again_and_loses_nothing() {
    // Unbinding, the route, the new eventfd.
    for refused in [0b1, 0b10, 0b100] {
        let fixture = Fixture::using([SLOT]);
        fixture.set_control(SLOT, MASK);
        assert_eq!(fixture.raise(SLOT), []);
        fixture.failures.schedule(refused);
        fixture.set_control(SLOT, carrying(7));
        assert_eq!((fixture.function.unsettled(), fixture.delivered()), (1, vec![]));
        fixture.function.retry();
        assert_eq!((fixture.function.unsettled(), fixture.delivered()), (0, vec![message(SLOT)]));
        assert_eq!(fixture.device.cookie(Vector(SLOT)), Some(Cookie(7)));
    }
}

#[test]
fn a_slot_over_a_part_of_a_device_has_its_cookie_with_the_device_too() {
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = FakeBackend::new(failures);
    let pool = Pool::new(device.clone());
    let part = LogicalFunction::new([pool.alloc_at(HostVector(5)).unwrap()]);
    let function = ImsFunction::new(layout(1, ControlFormat::DSA), router.clone(), part);
    function.write_slots(0, &message(0).address.to_le_bytes());
    function.write_slots(8, &(u64::from(carrying(7)) << 32 | 0x20).to_le_bytes());
    assert_eq!((device.cookie(Vector(5)), function.unsettled()), (Some(Cookie(7)), 0));
    device.raise(Vector(5));
    router.pump();
    assert_eq!(router.take_delivered(), [message(0)]);
}

/// A device without a place for cookies.
struct Plain(FakeBackend);

impl Backend for Plain {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        self.0.open(vectors)
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        self.0.bind(vector, eventfd)
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.0.unbind(vector)
    }

    fn close(&mut self) -> Result<(), BackendError> {
        self.0.close()
    }

    fn pending(&mut self, group: u32) -> u64 {
        self.0.pending(group)
    }
}

#[test]
fn a_device_without_a_place_for_cookies_keeps_the_slot_held_and_says_why() {
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = FakeBackend::new(failures);
    let plain = Plain(device.clone());
    let function = ImsFunction::new(layout(1, ControlFormat::DSA), router.clone(), plain);
    function.write_slots(0, &message(0).address.to_le_bytes());
    function.write_slots(8, &(u64::from(carrying(7)) << 32 | 0x20).to_le_bytes());
    device.raise(Vector(0));
    router.pump();
    assert_eq!(router.take_delivered(), []);
    let report = function.report();
    assert_eq!(report.vectors[0].cause, Some(Cause::Backend));
    assert!(report.vectors[0].error.as_ref().unwrap().contains("cannot carry a cookie"));
    let mut control = [0; 4];
    function.read_slots(12, &mut control);
    assert_eq!(u32::from_le_bytes(control), carrying(7) | PENDING);

    function.write_slots(12, &[0; 4]);
    router.pump();
    assert_eq!((router.take_delivered(), function.unsettled()), (vec![message(0)], 0));
}
