//! A store's state has its pending interrupts. A state that no store could have is refused.

use std::sync::Arc;

use vm_msi::ImsFunction;
use vm_msi::ims::{ControlFormat, SlotArrayState, SlotState};
use vm_msi::state::{FunctionState, RestoreError, Resume, resume_all};
use vm_msi::testing::{Failures, FakeRouter};

use crate::fixture::{Fixture, MASK, PENDING, layout, message};

const SLOT: u32 = 40_000;

#[test]
fn slots_go_to_another_vm_with_what_waits_for_them() {
    let fixture = Fixture::using([SLOT, 3]);
    fixture.set_control(SLOT, MASK);
    assert_eq!(fixture.raise(SLOT), []);
    let state = fixture.function.suspend().unwrap();
    let bytes = postcard::to_stdvec(&state).unwrap();
    let state: FunctionState<SlotArrayState> = postcard::from_bytes(&bytes).unwrap();

    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = fixture.device.moved(failures);
    let moved = ImsFunction::new(layout(65_536, ControlFormat::DSA), router.clone(), device.clone());
    moved.restore(&state).unwrap();
    assert_eq!(moved.suspend().unwrap(), state);
    resume_all(&*router, [&moved as &dyn Resume]);
    assert_eq!((device.in_use(), router.take_delivered()), ((1, true), vec![]));
    let mut control = [0; 4];
    moved.read_slots(u64::from(SLOT) * 16 + 12, &mut control);
    assert_eq!(u32::from_le_bytes(control), MASK | PENDING);
    moved.write_slots(u64::from(SLOT) * 16 + 12, &[0; 4]);
    assert_eq!(router.take_delivered(), [message(SLOT)]);
}

#[test]
fn a_store_that_nobody_has_used_is_restored_as_that() {
    let fixture = Fixture::after_reset(ControlFormat::DSA);
    let state = fixture.function.suspend().unwrap();
    assert_eq!(state.registers, SlotArrayState { slots: Vec::new() });
    let used = Fixture::using([SLOT]);
    used.function.restore(&state).unwrap();
    resume_all(&*used.router, [&used.function as &dyn Resume]);
    assert_eq!((used.device.in_use(), used.function.vectors()), ((0, false), 0));
}

#[test]
fn a_state_that_no_store_could_have_is_refused_with_nothing_changed() {
    let fixture = Fixture::using([SLOT]);
    let state = fixture.function.suspend().unwrap();
    resume_all(&*fixture.router, [&fixture.function as &dyn Resume]);
    let with = |change: fn(&mut Vec<SlotState>)| {
        let mut state = state.clone();
        change(&mut state.registers.slots);
        fixture.function.restore(&state).unwrap_err()
    };
    assert!(matches!(
        with(|slots| slots.truncate(65_535)),
        RestoreError::TableSize { found: 65_535, expected: 65_536 }
    ));
    let error = with(|slots| slots[9].control = PENDING);
    assert!(matches!(error, RestoreError::Reserved { register: "Control", .. }), "{error}");
    assert_eq!(fixture.raise(SLOT), [message(SLOT)]);
}
