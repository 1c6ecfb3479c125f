//! Queues: a ring is one interrupt with the slot's message.

use std::sync::{Arc, Mutex};

use event_manager::{EventManager, SubscriberOps};

use super::{Driver, MASK, Machine, PENDING, RING, RING_MSIX, message, msix_message};
use crate::ims::Maintenance;

#[test]
fn a_ring_is_one_interrupt_of_the_queues_slot() {
    let machine = Machine::queues(65_536);
    let slots = [0, 1, 40_000, 65_535];
    slots.iter().for_each(|slot| machine.set_up(*slot, 0));
    slots.iter().for_each(|slot| machine.write(RING, *slot));
    assert_eq!(machine.interrupts(), slots.map(message));
    assert_eq!(machine.counters(), [4, 0, 0]);
}

#[test]
fn a_masked_slot_keeps_one_interrupt_and_shows_it() {
    let machine = Machine::queues(4);
    machine.set_up(2, MASK);
    machine.write(RING, 2);
    machine.write(RING, 2);
    assert_eq!((machine.interrupts(), machine.control(2)), (vec![], MASK | PENDING));
    machine.set_control(2, 0);
    assert_eq!((machine.interrupts(), machine.control(2)), (vec![message(2)], 0));
    machine.set_control(2, u32::MAX);
    assert_eq!(machine.control(2), MASK, "nothing else is there");
}

/// Uses the host's clock and a real event loop.
#[test]
fn a_refused_interrupt_is_delivered_later() {
    let machine = Machine::queues(4);
    machine.set_up(2, 0);
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(Arc::new(Mutex::new(
        Maintenance::new(vec![Arc::clone(&machine.device) as _]).unwrap(),
    )));
    machine.failures.schedule(1);
    machine.write(RING, 2);
    assert_eq!(machine.interrupts(), []);
    manager.run_with_timeout(20_000).unwrap();
    assert_eq!(machine.interrupts(), [message(2)]);
}

#[test]
fn a_freed_slot_keeps_no_interrupt_for_its_next_owner() {
    let machine = Machine::queues(4);
    machine.write(RING, 1);
    machine.set_up(1, 0);
    assert_eq!(machine.interrupts(), [], "never used before");
    machine.free(1);
    machine.write(RING, 1);
    machine.set_up(1, 0);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![], [2, 2, 0]));
    machine.write(RING, 1);
    assert_eq!(machine.interrupts(), [message(1)]);
}

#[test]
fn msi_x_and_slots_are_live_at_once() {
    let machine = Machine::queues(4);
    machine.enable_msix();
    machine.set_up(0, 0);
    machine.set_up(1, 0);
    for (register, index) in [(RING, 0), (RING_MSIX, 1), (RING, 1), (RING_MSIX, 0)] {
        machine.write(register, index);
    }
    let expected = [message(0), msix_message(1), message(1), msix_message(0)];
    assert_eq!(machine.interrupts(), expected);
    assert_eq!(machine.counters(), [2, 0, 0], "of slots only");
}

#[test]
fn a_ring_of_an_absent_queue_is_refused_counted_and_signalled() {
    let machine = Machine::queues(4);
    for index in [4, 65_536, u32::MAX] {
        machine.write(RING, index);
    }
    machine.write(RING_MSIX, 2);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![], [0, 0, 4]), "MSI-X is off");
    machine.enable_msix();
    machine.write(RING, 4);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![msix_message(0)], [0, 0, 5]));
}

#[test]
fn without_bus_master_enable_interrupts_wait() {
    let machine = Machine::queues(4);
    machine.enable_msix();
    machine.set_up(0, 0);
    machine.set_up(1, MASK);
    machine.config_write(4, &[2, 0]);
    for (register, index) in [(RING, 0), (RING, 1), (RING_MSIX, 1)] {
        machine.write(register, index);
    }
    machine.set_control(1, 0);
    assert_eq!((machine.interrupts(), machine.control(0)), (vec![], PENDING));
    machine.config_write(4, &[6, 0]);
    assert_eq!(machine.interrupts(), [message(0), message(1), msix_message(1)]);
}

#[test]
fn a_reset_leaves_slots_as_after_power_on_and_msi_x_alone() {
    let machine = Machine::queues(4);
    machine.enable_msix();
    machine.set_up(0, 0);
    machine.set_up(1, MASK);
    machine.write(RING, 1);
    machine.write(RING, 9);
    machine.interrupts();
    machine.write(0x014, 2);
    assert_eq!(machine.counters(), [1, 0, 1], "no such bit");
    machine.write(0x014, 1);
    assert_eq!((machine.read(0x014), machine.counters(), machine.control(1)), (0, [0; 3], MASK));
    machine.set_up(1, 0);
    assert_eq!(machine.interrupts(), [], "what waited is gone");
    machine.write(RING, 0);
    machine.write(RING_MSIX, 1);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![msix_message(1)], [1, 1, 0]));
}

#[test]
fn a_refused_delivery_is_retried() {
    let machine = Machine::queues(4);
    machine.set_up(0, 0);
    machine.failures.schedule(1);
    machine.write(RING, 0);
    assert_eq!((machine.interrupts(), machine.control(0)), (vec![], PENDING));
    machine.device.interrupts().retry();
    assert_eq!((machine.interrupts(), machine.control(0)), (vec![message(0)], 0));
}

#[test]
fn the_report_lists_the_slots_in_use_and_no_others() {
    let machine = Machine::queues(65_536);
    machine.set_up(7, 0);
    machine.set_up(60_000, MASK);
    machine.write(RING, 60_000);
    machine.write(RING, 1);
    let report = machine.device.report();
    let slots = &report["slots"];
    let in_use = serde_json::json!([
        { "vector": 7, "state": "live", "message": { "address": 0xfee0_0000u32, "data": 0x27 }, "pending": false },
        { "vector": 60_000, "state": "held", "message": null, "pending": true },
    ]);
    assert_eq!((&slots["vectors"], &slots["in_use"]), (&65_536.into(), &in_use));
    assert_eq!((&report["triggers"], &report["dropped_triggers"]), (&2.into(), &1.into()));
    assert_eq!(report["software_msix"]["vectors"], 2);
}
