//! Queue registers (virtio 1.2 §2.6, §4.1.4.3), and invalid queues.

use super::super::registers::{COMMON_FEATURES, NEEDS_RESET, RING_RESET};
use super::{AVAILABLE, BUFFERS, DESCRIPTORS, Driver, ENTRIES, Machine, RAM, Second, USED, at, message};

#[test]
fn each_queue_says_its_size_and_where_its_doorbell_is_and_one_that_is_not_there_reads_0() {
    let machine = Machine::of(Second::model());
    assert_eq!(machine.read::<2>(at::NUM_QUEUES), 2);
    for (queue, size) in [(0, 8), (1, 256), (2, 0), (0xffff, 0)] {
        machine.write16(at::QUEUE_SELECT, queue);
        assert_eq!(machine.read::<2>(at::QUEUE_SIZE), size);
        let doorbell = if size == 0 { 0 } else { queue };
        assert_eq!(machine.read::<2>(at::QUEUE_NOTIFY_OFF), u64::from(doorbell));
        machine.write16(at::QUEUE_ENABLE, 1);
    }
}

#[test]
fn a_size_is_a_power_of_two_up_to_the_largest() {
    let machine = Machine::new();
    for (written, read) in [(32, 32), (0, 32), (33, 32), (128, 32), (0xffff, 32), (1, 1), (64, 64)] {
        machine.write16(at::QUEUE_SIZE, written);
        assert_eq!(machine.read::<2>(at::QUEUE_SIZE), read, "{written}");
    }
}

#[test]
fn an_enabled_queue_cannot_be_changed_nor_disabled() {
    let machine = Machine::driven();
    machine.write16(at::QUEUE_ENABLE, 0);
    machine.write16(at::QUEUE_SIZE, 8);
    machine.write(at::QUEUE_DESC, &[0xf0; 8]);
    assert_eq!(machine.read::<2>(at::QUEUE_ENABLE), 1);
    assert_eq!(machine.read::<2>(at::QUEUE_SIZE), u64::from(ENTRIES));
    assert_eq!(machine.read::<8>(at::QUEUE_DESC), DESCRIPTORS);
}

#[test]
fn a_queue_that_is_misaligned_or_not_in_ram_is_not_enabled_and_the_device_needs_a_reset() {
    let bytes = u64::from(ENTRIES);
    for (register, area) in [
        (at::QUEUE_DESC, DESCRIPTORS + 8),
        (at::QUEUE_DESC, RAM - 16 * bytes + 16),
        (at::QUEUE_DRIVER, AVAILABLE + 1),
        (at::QUEUE_DRIVER, RAM - 2 * bytes - 4),
        (at::QUEUE_DEVICE, USED + 2),
        (at::QUEUE_DEVICE, RAM - 8 * bytes - 4),
        (at::QUEUE_DEVICE, u64::MAX - 3),
        (at::QUEUE_DESC, u64::MAX - 15),
    ] {
        let machine = Machine::new();
        machine.set_up_queue();
        machine.write(register, &area.to_le_bytes());
        machine.write16(at::QUEUE_ENABLE, 1);
        assert_eq!(machine.read::<2>(at::QUEUE_ENABLE), 0, "{register:#x} {area:#x}");
        assert_eq!(machine.status(), NEEDS_RESET);
    }
}

#[test]
fn a_queue_may_be_reset_and_enabled_again_while_the_device_works() {
    let mut machine = Machine::driven();
    machine.request(BUFFERS, 64);
    assert_eq!(machine.used(), (1, 0, 64));
    machine.write16(at::QUEUE_RESET, 1);
    assert_eq!(machine.read::<2>(at::QUEUE_RESET), 1, "the lane has the ring");
    machine.settle();
    assert_eq!(machine.read::<2>(at::QUEUE_RESET), 0, "the reset is complete");
    assert_eq!(machine.read::<2>(at::QUEUE_ENABLE), 0);
    assert_eq!(machine.read::<8>(at::QUEUE_DESC), 0);
    machine.offer(0);
    machine.serve();
    assert_eq!(machine.used().0, 1, "nothing happens in a queue that was reset");

    machine.available = 0;
    machine.memory_is_fresh();
    machine.set_up_queue();
    machine.write16(at::QUEUE_ENABLE, 1);
    machine.request(BUFFERS, 32);
    assert_eq!(machine.used(), (1, 0, 32));
    assert_eq!(machine.router.take_delivered(), [message(1), message(1)]);
}

#[test]
fn a_queue_is_not_reset_where_the_driver_did_not_take_that_feature() {
    let machine = Machine::new();
    machine.drive(COMMON_FEATURES & !RING_RESET);
    machine.write16(at::QUEUE_RESET, 1);
    assert_eq!(machine.read::<2>(at::QUEUE_ENABLE), 1);
}

#[test]
fn requests_before_driver_ok_are_served_at_driver_ok() {
    let mut machine = Machine::new();
    machine.set_up_queue();
    machine.write16(at::QUEUE_ENABLE, 1);
    machine.request(BUFFERS, 64);
    assert_eq!(machine.used().0, 0);
    machine.drive(COMMON_FEATURES);
    assert_eq!(machine.used(), (1, 0, 64), "without the driver's doorbell");
}

#[test]
fn nothing_is_served_while_the_bus_keeps_the_device_from_memory() {
    let mut machine = Machine::driven();
    machine.config_write(4, &[2, 0]);
    machine.request(BUFFERS, 64);
    assert_eq!((machine.used().0, machine.router.take_delivered().len()), (0, 0));
    machine.config_write(4, &[6, 0]);
    machine.settle();
    assert_eq!(machine.used(), (1, 0, 64), "without the driver's doorbell");
}

#[test]
fn nothing_is_served_after_a_reset() {
    let mut machine = Machine::driven();
    machine.reset();
    machine.request(BUFFERS, 64);
    assert_eq!((machine.used().0, machine.router.take_delivered().len()), (0, 0));
}

#[test]
fn a_ring_that_makes_no_sense_stops_the_device_until_it_is_reset() {
    for break_it in [
        // More requests than entries.
        (|machine: &mut Machine| {
            machine.available = ENTRIES + 1;
            machine.offer(0);
        }) as fn(&mut Machine),
        // A head beyond the descriptor table.
        |machine| machine.offer(ENTRIES),
        |machine| machine.offer(0xffff),
    ] {
        let mut machine = Machine::driven();
        break_it(&mut machine);
        machine.serve();
        assert_eq!(machine.status() & NEEDS_RESET, NEEDS_RESET);
        assert_eq!(machine.used().0, 0);
        assert_eq!(machine.router.take_delivered(), [message(0)], "the driver hears of it, once");
        machine.serve();
        assert_eq!(machine.router.take_delivered(), []);

        machine.available = 0;
        machine.memory_is_fresh();
        machine.drive(COMMON_FEATURES);
        machine.request(BUFFERS, 64);
        assert_eq!(machine.used(), (1, 0, 64), "it works again");
    }
}

impl Machine {
    /// Empties the driver's rings.
    fn memory_is_fresh(&self) {
        use vm_memory::{Bytes, GuestAddress};
        self.memory.write_slice(&[0; 0x4000], GuestAddress(0)).unwrap();
    }
}
