//! Doorbells and interrupts (virtio 1.2 §2.9, §4.1.4.4, §4.1.4.5, §4.1.5.3).

use vm_memory::{Bytes, GuestAddress};

use super::super::registers::{COMMON_FEATURES, EVENT_IDX};
use super::{AVAILABLE, BUFFERS, Driver, ENTRIES, Machine, WRITE, at, message};

#[test]
fn any_write_to_its_doorbell_rings_a_queue_and_no_other_access_does() {
    let machine = Machine::new();
    for (offset, data) in [(0, &[0, 0][..]), (0, &[0xff; 4]), (2, &[0, 0]), (0, &[0; 8]), (3, &[0])] {
        machine.write(at::NOTIFY + offset, data);
        assert!(machine.is_rung(), "{offset}");
    }
    machine.write(at::NOTIFY + 4, &[0, 0]);
    machine.write(at::NOTIFY - 2, &[0, 0]);
    assert_eq!(machine.read::<4>(at::NOTIFY), 0);
    assert!(!machine.is_rung());
}

#[test]
fn used_buffers_are_one_trigger_of_the_queues_vector() {
    let mut machine = Machine::driven();
    machine.request(BUFFERS, 64);
    assert_eq!(machine.router.take_delivered(), [message(1)]);
    assert_eq!(machine.router.commits(), 0, "no route");
    assert_eq!(machine.msix_function().counters().delivered, 1);
}

#[test]
fn a_masked_vector_waits_and_is_delivered_once_when_it_is_unmasked() {
    let mut machine = Machine::driven();
    let control = at::MSIX_TABLE + 16 + 12;
    machine.write(control, &[1, 0, 0, 0]);
    machine.request(BUFFERS, 64);
    machine.request(BUFFERS, 64);
    assert_eq!(machine.router.take_delivered(), []);
    machine.write(control, &[0, 0, 0, 0]);
    assert_eq!(machine.router.take_delivered(), [message(1)]);
}

#[test]
fn a_pending_interrupt_of_a_masked_vector_waits_for_bus_master_enable() {
    let mut machine = Machine::driven();
    let control = at::MSIX_TABLE + 16 + 12;
    machine.write(control, &[1, 0, 0, 0]);
    machine.request(BUFFERS, 64);
    machine.config_write(4, &[2, 0]);
    machine.write(control, &[0, 0, 0, 0]);
    assert_eq!(machine.router.take_delivered(), [], "a message is a write to memory");
    machine.config_write(4, &[6, 0]);
    assert_eq!(machine.router.take_delivered(), [message(1)]);
}

#[test]
fn a_delivery_that_the_host_refuses_is_tried_again() {
    let mut machine = Machine::driven();
    machine.failures.schedule(1);
    machine.describe(&[(BUFFERS, 64, WRITE, 0)]);
    machine.offer(0);
    machine.write16(at::NOTIFY, 0);
    machine.turn();
    assert_eq!((machine.used().0, machine.router.take_delivered().len()), (1, 0));
    machine.turn();
    assert_eq!(machine.router.take_delivered(), [message(1)]);
}

#[test]
fn a_queue_without_a_vector_is_polled() {
    let mut machine = Machine::driven();
    machine.write16(at::QUEUE_MSIX_VECTOR, 0xffff);
    machine.request(BUFFERS, 64);
    assert_eq!((machine.used().0, machine.router.take_delivered().len()), (1, 0));
}

#[test]
fn with_msix_off_isr_status_says_that_buffers_were_used_and_reading_clears_it() {
    let mut machine = Machine::new();
    machine.drive(COMMON_FEATURES);
    machine.request(BUFFERS, 64);
    assert_eq!(machine.read::<1>(at::ISR), 1);
    assert_eq!(machine.read::<1>(at::ISR), 0);
    assert_eq!(machine.msix_function().counters().dropped, 0, "it does not try to interrupt");
}

#[test]
fn with_msix_on_isr_status_says_nothing_of_queues() {
    let mut machine = Machine::driven();
    machine.request(BUFFERS, 64);
    assert_eq!(machine.read::<1>(at::ISR), 0);
}

#[test]
fn isr_status_says_that_the_device_needs_a_reset() {
    let mut machine = Machine::driven();
    machine.offer(ENTRIES);
    machine.serve();
    assert_eq!(machine.read::<4>(at::ISR), 2);
    assert_eq!(machine.read::<4>(at::ISR), 0);
}

#[test]
fn event_indices_keep_a_driver_that_wants_to_hear_of_the_second_from_hearing_of_the_first() {
    for (features, first, both) in [(COMMON_FEATURES, 0, 1), (COMMON_FEATURES & !EVENT_IDX, 1, 2)] {
        let mut machine = Machine::new();
        machine.enable_msix();
        machine.drive(features);
        // used_event: notify when the entry with this index is used.
        machine.memory.write_obj(1u16, GuestAddress(AVAILABLE + 4 + 2 * u64::from(ENTRIES))).unwrap();
        machine.request(BUFFERS, 64);
        assert_eq!(machine.router.take_delivered().len(), first);
        machine.request(BUFFERS, 64);
        assert_eq!(machine.router.take_delivered().len(), both - first);
    }
}

#[test]
fn a_driver_that_never_stops_gets_as_many_requests_served_at_a_time_as_the_queue_has_entries() {
    let mut machine = Machine::driven();
    machine.describe(&[(BUFFERS, 64, WRITE, 0)]);
    (0..ENTRIES).for_each(|_| machine.offer(0));
    machine.write16(at::NOTIFY, 0);
    machine.turn();
    assert_eq!(machine.used().0, ENTRIES);
    assert!(machine.is_rung(), "it looks again, after others had their turn");
}
