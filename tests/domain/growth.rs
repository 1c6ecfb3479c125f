//! Deferred requests: an embedder's thread binds the host vectors. An interrupt that arrives before sets the Pending bit, and is delivered
//! when the vector is bound.

use std::sync::Arc;

use vm_msi::MsixFunction;
use vm_msi::msix::{Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture, VECTORS, bar, message};
use crate::host::is_readable;

/// MSI-X is on and requests are deferred. The test is the thread that makes them.
fn fixture() -> Fixture {
    let fixture = Fixture::using([]);
    assert!(!fixture.is_told_to_grow());
    fixture
}

fn unmask(fixture: &Fixture, vector: u16) {
    fixture.set_message(vector, message(vector));
    fixture.set_mask(vector, 0);
}

#[test]
fn an_interrupt_before_a_deferred_vector_is_bound_is_pending_and_is_delivered_once_when_it_is() {
    let fixture = fixture();
    unmask(&fixture, 3);
    assert_eq!(
        (fixture.bound(), fixture.function.deferred()),
        (0, 1),
        "the write has not waited for the host"
    );
    assert_eq!([fixture.raise(3), fixture.raise(3)], [[], []]);
    assert_eq!(fixture.pba(), 1 << 3);
    assert!(fixture.is_told_to_grow());
    fixture.function.bind_deferred();
    assert_eq!((fixture.delivered(), fixture.pba()), (vec![message(3)], 0));
    assert_eq!((fixture.bound(), fixture.is_told_to_grow()), (1, false));
    assert_eq!(fixture.raise(3), [message(3)]);
}

#[test]
fn a_vector_that_is_masked_again_before_it_is_bound_makes_no_host_call() {
    let fixture = fixture();
    unmask(&fixture, 3);
    fixture.set_mask(3, 1);
    assert_eq!(fixture.function.deferred(), 0);
    fixture.function.bind_deferred();
    assert_eq!(fixture.bound(), 0);
    assert_eq!((fixture.raise(3), fixture.pba()), (vec![], 1 << 3));
}

#[test]
fn a_deferred_vector_is_bound_with_the_message_that_it_has_by_then() {
    let fixture = fixture();
    unmask(&fixture, 3);
    fixture.set_message(3, message(4));
    fixture.function.bind_deferred();
    assert_eq!(fixture.raise(3), [message(4)]);
}

#[test]
fn a_vector_that_has_a_host_vector_is_not_deferred() {
    let fixture = fixture();
    unmask(&fixture, 3);
    fixture.function.bind_deferred();
    fixture.set_mask(3, 1);
    fixture.raise(3);
    fixture.set_mask(3, 0);
    assert_eq!(fixture.delivered(), [message(3)], "unmasked");
    fixture.set_message(3, message(4));
    assert_eq!(fixture.raise(3), [message(4)], "moved while it is unmasked");
    fixture.set_control(ENABLE | FUNCTION_MASK);
    fixture.set_control(ENABLE);
    assert_eq!(fixture.raise(3), [message(4)], "masked with all others");
    assert!(!fixture.is_told_to_grow());
}

#[test]
fn a_guest_that_unmasks_all_vectors_at_once_waits_for_none_and_gets_all_interrupts() {
    let fixture = fixture();
    fixture.set_control(ENABLE | FUNCTION_MASK);
    (0..VECTORS).for_each(|vector| unmask(&fixture, vector));
    fixture.set_control(ENABLE);
    assert_eq!((fixture.bound(), fixture.function.deferred()), (0, VECTORS.into()));
    (0..VECTORS).for_each(|vector| drop(fixture.raise(vector)));
    while fixture.is_told_to_grow() {
        fixture.function.bind_deferred();
    }
    assert_eq!(fixture.delivered(), (0..VECTORS).map(message).collect::<Vec<_>>());
}

#[test]
fn one_call_binds_at_most_256_deferred_vectors() {
    let layout = Layout::new(TableSize::new(300).unwrap(), (bar(0), 0), (bar(0), 0x8000)).unwrap();
    let device = FakeBackend::new(Failures::default());
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function = MsixFunction::new(layout, router, device.clone());
    let growth = function.deferred_bind_fd().unwrap();
    function.write_config(2, &ENABLE.to_le_bytes());
    for entry in 0..300 {
        function.write_table(entry * 16, &0xfee0_0000_u64.to_le_bytes());
        function.write_table(entry * 16 + 8, &(0x41 + entry % 128).to_le_bytes());
    }
    let grow = || {
        function.bind_deferred();
        (device.in_use().0, is_readable(&growth))
    };
    assert_eq!([grow(), grow()], [(256, true), (300, false)]);
}

#[test]
fn disabling_msi_x_or_a_reset_leaves_nothing_deferred() {
    let off: [fn(&Fixture); 2] = [|fixture| fixture.set_control(0), Fixture::reset];
    for turn_off in off {
        let fixture = fixture();
        unmask(&fixture, 3);
        turn_off(&fixture);
        assert_eq!(fixture.function.deferred(), 0);
        fixture.function.bind_deferred();
        assert_eq!(fixture.bound(), 0);
    }
}

#[test]
fn a_deferred_vector_of_a_suspended_function_is_bound_when_the_function_is_resumed() {
    let fixture = fixture();
    unmask(&fixture, 3);
    fixture.function.suspend().unwrap();
    fixture.function.bind_deferred();
    assert_eq!((fixture.raise(3), fixture.bound()), (vec![], 0));
    fixture.resume();
    assert_eq!(fixture.delivered(), [message(3)]);
}

#[test]
fn a_deferred_vector_that_the_host_refuses_is_bound_by_the_next_call() {
    let fixture = fixture();
    unmask(&fixture, 3);
    fixture.raise(3);
    // Published and attached, and not bound.
    fixture.refuse(0b100);
    fixture.function.bind_deferred();
    assert_eq!((fixture.function.deferred(), fixture.function.failed_steps()), (0, 1));
    fixture.function.retry();
    assert_eq!(
        (fixture.bound(), fixture.is_told_to_grow()),
        (0, true),
        "whoever tries again need not wait for the host"
    );
    fixture.function.bind_deferred();
    assert_eq!((fixture.delivered(), fixture.function.failed_steps()), (vec![message(3)], 0));
}

#[test]
fn a_host_that_refuses_to_disable_msi_x_leaves_nothing_deferred() {
    let fixture = fixture();
    unmask(&fixture, 3);
    fixture.refuse(0b1111);
    fixture.set_control(0);
    assert_eq!((fixture.function.deferred(), fixture.function.failed_steps()), (0, 1));
    fixture.refuse(0);
    fixture.function.retry();
    assert_eq!((fixture.bound(), fixture.function.failed_steps()), (0, 0));
}
