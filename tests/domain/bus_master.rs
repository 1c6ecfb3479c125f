//! Bus Master Enable beside suspension, and for device models. `tests/spec/bus_master.rs` has the sentence of the specification.

use std::sync::Arc;

use vm_msi::domain::{BusMaster, State};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::state::{Resume, resume_all};
use vm_msi::testing::{Failures, FakeRouter};
use vm_msi::{SoftwareMsix, Vector};

use crate::fixture::{ENABLE, Fixture, message};

const VECTOR: u16 = 3;

#[test]
fn setting_bus_master_enable_again_asks_the_host_for_nothing() {
    let fixture = Fixture::using([VECTOR]);
    let report = fixture.function.report();
    fixture.function.set_bus_master(BusMaster::Enabled);
    assert_eq!(fixture.function.report(), report);
}

/// Suspension and Bus Master Enable each hold the vectors. A vector is live when both allow it.
#[test]
fn a_function_that_is_resumed_without_bus_master_enable_sends_nothing() {
    let fixture = Fixture::using([VECTOR]);
    fixture.function.suspend().unwrap();
    fixture.function.set_bus_master(BusMaster::Disabled);
    fixture.function.resume();
    assert_eq!(fixture.raise(VECTOR), []);
    fixture.function.suspend().unwrap();
    fixture.function.set_bus_master(BusMaster::Enabled);
    assert_eq!(fixture.delivered(), []);
    fixture.function.resume();
    assert_eq!(fixture.delivered(), [message(VECTOR)]);
    assert_eq!(fixture.function.report().vectors[0].state, State::Live);
}

#[test]
fn a_device_models_triggers_wait_for_bus_master_enable_masked_or_not() {
    let bar = Bar::new(0).unwrap();
    let layout = Layout::new(TableSize::new(2).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function = SoftwareMsix::software(layout, router.clone());
    function.write_config(2, &ENABLE.to_le_bytes());
    for vector in [0, 1] {
        let message = message(vector);
        function.write_table(u64::from(vector) * 16, &message.address.to_le_bytes());
        function.write_table(u64::from(vector) * 16 + 8, &u64::from(message.data).to_le_bytes());
    }
    let mask = |control: u32| function.write_table(16 + 12, &control.to_le_bytes());

    // The vector is triggered while it is masked, and unmasked while Bus Master Enable is clear.
    mask(1);
    function.trigger(Vector(1));
    function.set_bus_master(BusMaster::Disabled);
    mask(0);
    function.trigger(Vector(0));
    assert_eq!((router.take_delivered(), function.pending(0), function.failed_steps()), (vec![], 0b11, 0));
    // Neither resume nor retry delivers it.
    function.suspend().unwrap();
    resume_all(&*router, [&function as &dyn Resume]);
    function.retry();
    assert_eq!(router.take_delivered(), []);
    function.set_bus_master(BusMaster::Enabled);
    assert_eq!((router.take_delivered(), function.pending(0)), (vec![message(0), message(1)], 0));
}
