//! Cookies: the number that a slot's interrupts carry beside their message. The device has it before the first interrupt.

use std::sync::Arc;

use vm_msi::backend::{Capabilities, Cookie, Unsupported};
use vm_msi::ims::{Bit, ControlFormat, MaskBit, MaskedWhen};
use vm_msi::pool::{HostVector, LogicalFunction, Parent, Pool};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{Backend, ImsFunction, Vector};

use crate::fixture::{Fixture, MASK, layout, message};

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
    // Unbinding, the route, the new eventfd, its irqfd.
    for refused in [0b1, 0b10, 0b100, 0b1000] {
        let fixture = Fixture::using([SLOT]);
        fixture.set_control(SLOT, MASK);
        assert_eq!(fixture.raise(SLOT), []);
        fixture.set_message(SLOT, message(SLOT - 1));
        fixture.failures.schedule(refused);
        fixture.set_control(SLOT, carrying(7));
        assert_eq!((fixture.function.failed_steps(), fixture.delivered()), (1, vec![]));
        fixture.function.retry();
        assert_eq!((fixture.function.failed_steps(), fixture.delivered()), (0, vec![message(SLOT - 1)]));
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
    assert_eq!((device.cookie(Vector(5)), function.failed_steps()), (Some(Cookie(7)), 0));
    device.raise(Vector(5));
    router.pump();
    assert_eq!(router.take_delivered(), [message(0)]);
}

/// A device that has no cookies.
fn plain() -> FakeBackend {
    let capabilities = Capabilities { vectors: 2, cookies: false, ..Capabilities::UNLIMITED };
    FakeBackend::with_capabilities(Failures::default(), capabilities)
}

#[test]
fn slots_with_cookies_are_refused_a_device_without_a_place_for_them() {
    let router = || Arc::new(FakeRouter::new(Failures::default()));
    let refused = ImsFunction::try_new(layout(1, ControlFormat::DSA), router(), plain());
    assert_eq!(refused.unwrap_err(), Unsupported::Cookies);
    let mask = MaskBit { bit: Bit::new(0).unwrap(), masked_when: MaskedWhen::Set };
    let without = ControlFormat::new(Some(mask), None, None).unwrap();
    assert!(ImsFunction::try_new(layout(1, without), router(), plain()).is_ok());
}

/// The embedder did not ask for cookies. That is no failure of the host, so it is not tried again.
#[test]
fn a_device_without_a_place_for_cookies_keeps_the_slot_held_until_the_guest_wants_none() {
    let device = plain();
    is_held_until_it_wants_no_cookie(device.clone(), &device, 0);

    // A vector that is taken on demand has no host vector when it is refused.
    let device = plain();
    let table = Arc::new(Pool::new(device.clone()).reserve(0..2).unwrap());
    let mut physical = LogicalFunction::new([table.alloc_at(HostVector(0)).unwrap()]);
    physical.open(1).unwrap();
    let parent = Parent::enable(table, HostVector(0)).unwrap();
    is_held_until_it_wants_no_cookie(parent.sub_device(1), &device, 1);
}

fn is_held_until_it_wants_no_cookie(backend: impl Backend + 'static, device: &FakeBackend, host_vector: u32) {
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function = ImsFunction::new(layout(1, ControlFormat::DSA), router.clone(), backend);
    function.write_slots(0, &message(0).address.to_le_bytes());
    function.write_slots(8, &(u64::from(carrying(7)) << 32 | 0x20).to_le_bytes());
    let counters = function.report().counters;
    assert_eq!((counters.refused_cookies, counters.host_failures, function.failed_steps()), (1, 0, 0));
    function.retry();
    assert_eq!(function.report().counters, counters, "nothing is tried");
    device.raise(Vector(host_vector));
    router.pump();
    assert_eq!(router.take_delivered(), []);

    function.write_slots(12, &[0; 4]);
    device.raise(Vector(host_vector));
    router.pump();
    let delivered = router.take_delivered();
    assert!(!delivered.is_empty() && delivered.iter().all(|delivered| *delivered == message(0)));
    assert_eq!(function.failed_steps(), 0);
}
