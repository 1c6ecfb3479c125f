//! Bus Master Enable (PCIe r6 §7.5.1.1.3): while it is clear, a function sends no MSI and no MSI-X messages.

use vm_msi::domain::BusMaster;

use crate::fixture::{ENABLE, Fixture, message};

const VECTOR: u16 = 3;

/// PCIe r6 §7.5.1.1.3: A function whose Bus Master Enable is clear must not send memory writes, and a message is one. Software
/// that sets the bit again gets what was pending.
#[test]
fn without_bus_master_enable_interrupts_wait_and_come_once_when_it_is_set() {
    let fixture = Fixture::using([VECTOR]);
    fixture.function.set_bus_master(BusMaster::Disabled);
    assert_eq!((fixture.raise(VECTOR), fixture.raise(VECTOR)), (vec![], vec![]));
    assert_eq!(fixture.function.pending(0), 1 << VECTOR);
    fixture.function.set_bus_master(BusMaster::Enabled);
    assert_eq!(fixture.delivered(), [message(VECTOR)]);
    assert_eq!(fixture.raise(VECTOR), [message(VECTOR)]);
}

/// PCIe r6 §7.5.1.1.3: Bus Master Enable allows messages from the moment that it is set, whenever the vector was configured.
#[test]
fn a_vector_that_is_set_up_without_bus_master_enable_comes_alive_with_it() {
    let fixture = Fixture::after_reset();
    fixture.function.set_bus_master(BusMaster::Disabled);
    fixture.set_control(ENABLE);
    fixture.set_message(VECTOR, message(VECTOR));
    fixture.set_mask(VECTOR, 0);
    assert_eq!((fixture.raise(VECTOR), fixture.function.report().live), (vec![], 0));
    fixture.function.set_bus_master(BusMaster::Enabled);
    assert_eq!(fixture.delivered(), [message(VECTOR)]);
}
