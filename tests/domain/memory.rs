//! Messages whose address is in the guest's memory, and what becomes of them when a vector changes its message.

use vm_msi::MsiMessage;
use vm_msi::testing::{Failures, FakeRouter};
use vm_msi::{SoftwareMsix, Vector};

use crate::fixture::{ENABLE, Fixture, bar, message};

/// A DWORD that the driver polls. iPXE's network drivers set MSI-X up so.
const POLLED: MsiMessage = MsiMessage { address: 0x12_3000, data: 0xdead_beef };

#[test]
fn a_message_to_memory_is_no_interrupt_of_the_next_driver() {
    for watched in [false, true] {
        let fixture = Fixture::using([]);
        if watched {
            fixture.function.relay_fd().unwrap();
        }
        fixture.set_message(0, POLLED);
        fixture.set_mask(0, 0);
        assert_eq!(fixture.raise(0), []);
        fixture.set_mask(0, 1);
        assert_eq!((fixture.router.take_written(), fixture.pba()), (vec![POLLED], 0), "before it is silent");
        fixture.set_message(0, message(0));
        fixture.set_mask(0, 0);
        assert_eq!(fixture.delivered(), []);
        assert_eq!(fixture.raise(0), [message(0)]);
    }
}

#[test]
fn a_message_that_moves_from_memory_to_an_apic_while_unmasked_takes_nothing_along() {
    let fixture = Fixture::using([]);
    fixture.set_message(0, POLLED);
    fixture.set_mask(0, 0);
    fixture.raise(0);
    fixture.set_message(0, message(0));
    assert_eq!(fixture.delivered(), []);
    assert_eq!(fixture.raise(0), [message(0)]);
    fixture.set_message(0, POLLED);
    assert_eq!(fixture.raise(0), []);
}

#[test]
fn a_device_models_message_to_memory_is_written_there() {
    let router = std::sync::Arc::new(FakeRouter::new(Failures::default()));
    let layout =
        vm_msi::msix::Layout::new(vm_msi::msix::TableSize::new(2).unwrap(), (bar(0), 0), (bar(0), 0x1000))
            .unwrap();
    let function = SoftwareMsix::software(layout, router.clone());
    function.write_config(2, &ENABLE.to_le_bytes());
    function.write_table(0, &POLLED.address.to_le_bytes());
    function.write_table(8, &u64::from(POLLED.data).to_le_bytes());
    function.trigger(Vector(0));
    assert_eq!((router.take_written(), router.take_delivered()), (vec![POLLED], vec![]));
    assert_eq!((function.pending(0), function.counters().written_to_memory), (0, 1));
}
