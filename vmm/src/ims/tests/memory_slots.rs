//! Slots in guest memory: a slot takes effect when its doorbell is rung.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Driver, MASK, Machine, PENDING, RING, message, msix_message};
use crate::ims::queues::Queues;

const SELECT: u64 = 0x040;
const SELECTED: u64 = 0x044;
const ADDRESS: u64 = 0x048;
const PLACE: u64 = 0x050;
const DOORBELL: u64 = 0x054;
const RESULT: u64 = 0x058;

const PLACED: u32 = 1 << 31;
/// The RAM: two adjacent regions, and none behind them.
const REGION: u64 = 0x1_0000;
/// Number of slots in the BAR.
const SLOTS: u32 = 4;

/// Queues with 4 slots in a BAR and 1024 in memory.
fn machine() -> (Machine<Queues>, GuestMemoryMmap) {
    let regions = [0, REGION].map(|start| (GuestAddress(start), REGION as usize));
    let memory = GuestMemoryMmap::from_ranges(&regions).unwrap();
    (Machine::with_memory_slots(SLOTS, 1024, &memory), memory)
}

/// Writes a slot to memory: the message of slot `number`, and the control register.
fn fill(memory: &GuestMemoryMmap, at: u64, number: u32, control: u32) {
    memory.write_obj(message(number).address, GuestAddress(at)).unwrap();
    memory.write_obj(message(number).data, GuestAddress(at + 8)).unwrap();
    memory.write_obj(control, GuestAddress(at + 12)).unwrap();
}

impl Machine<Queues> {
    fn place(&self, slot: u32, address: u64) -> u32 {
        self.write(ADDRESS, address as u32);
        self.write(ADDRESS + 4, (address >> 32) as u32);
        self.write(PLACE, slot);
        self.read(RESULT)
    }

    fn doorbell(&self, slot: u32) -> u32 {
        self.write(DOORBELL, slot);
        self.read(RESULT)
    }

    fn ring_memory(&self, slot: u32) {
        self.write(RING, SLOTS + slot);
    }

    fn selected(&self, slot: u32) -> u32 {
        self.write(SELECT, slot);
        self.read(SELECTED)
    }
}

#[test]
fn a_slot_in_memory_signals_from_its_doorbell_on() {
    let (machine, memory) = machine();
    assert_eq!((machine.read(0x00c), machine.read(0x010)), (1024, 1028));
    fill(&memory, 0x4560, 7, 0);
    assert_eq!(machine.place(1023, 0x4560), 0);
    machine.ring_memory(1023);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![], [1, 1, 0]), "nobody rang for it");
    assert_eq!(machine.doorbell(1023), 0);
    machine.ring_memory(1023);
    assert_eq!((machine.interrupts(), machine.selected(1023)), (vec![message(7)], PLACED));
}

#[test]
fn a_rewritten_slot_takes_effect_at_its_next_doorbell() {
    let (machine, memory) = machine();
    fill(&memory, 0x1000, 1, 0);
    machine.place(3, 0x1000);
    machine.doorbell(3);
    fill(&memory, 0x1000, 2, 0);
    machine.ring_memory(3);
    assert_eq!(machine.interrupts(), [message(1)]);
    machine.doorbell(3);
    machine.ring_memory(3);
    assert_eq!(machine.interrupts(), [message(2)]);
    // At another address.
    fill(&memory, 0x2000, 4, 0);
    machine.place(3, 0x2000);
    machine.ring_memory(3);
    assert_eq!(machine.interrupts(), [message(2)]);
    machine.doorbell(3);
    machine.ring_memory(3);
    assert_eq!(machine.interrupts(), [message(4)]);
}

#[test]
fn a_masked_slot_in_memory_keeps_one_interrupt_which_a_register_shows() {
    let (machine, memory) = machine();
    fill(&memory, 0x1000, 1, MASK);
    machine.place(0, 0x1000);
    machine.doorbell(0);
    machine.ring_memory(0);
    machine.ring_memory(0);
    assert_eq!((machine.interrupts(), machine.selected(0)), (vec![], PLACED | MASK | PENDING));
    assert_eq!(memory.read_obj::<u32>(GuestAddress(0x100c)).unwrap(), MASK, "nothing is written to memory");
    fill(&memory, 0x1000, 1, 0);
    machine.doorbell(0);
    assert_eq!((machine.interrupts(), machine.selected(0)), (vec![message(1)], PLACED));
}

#[test]
fn a_slot_without_a_place_is_off_at_once() {
    let (machine, memory) = machine();
    fill(&memory, 0x1000, 1, 0);
    machine.place(0, 0x1000);
    machine.doorbell(0);
    assert_eq!(machine.place(0, 0), 0);
    machine.ring_memory(0);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![], [1, 1, 0]));
    assert_eq!((machine.selected(0), machine.selected(1024), machine.selected(u32::MAX)), (MASK, 0, 0));
}

#[test]
fn each_refused_command_has_a_result_and_is_counted_and_signalled() {
    let (machine, memory) = machine();
    machine.enable_msix();
    let none = 0x58;
    assert_eq!(machine.place(1024, none), 1);
    assert_eq!(machine.doorbell(u32::MAX), 1);
    assert_eq!(machine.place(0, 0x1008), 3);
    assert_eq!(machine.doorbell(0), 4, "it was not placed");
    assert_eq!((machine.counters(), machine.interrupts()), ([0, 0, 4], vec![msix_message(0); 4]));
    // Beyond RAM, at a BAR, across the end.
    for address in [2 * REGION, machine.bars[1], u64::MAX - 15] {
        assert_eq!((machine.place(0, address), machine.doorbell(0)), (0, 2), "{address:#x}");
    }
    assert_eq!(machine.counters(), [0, 0, 7]);
    let completed: Vec<_> = [1, 0].into_iter().cycle().take(6).map(msix_message).collect();
    assert_eq!(machine.interrupts(), completed);
    // The last 16 bytes of a region are valid.
    fill(&memory, REGION - 16, 9, 0);
    assert_eq!((machine.place(0, REGION - 16), machine.doorbell(0)), (0, 0));
    machine.ring_memory(0);
    assert_eq!(machine.interrupts(), [msix_message(1), msix_message(1), message(9)]);
}

#[test]
fn a_slot_that_cannot_be_read_is_off_until_it_can() {
    let (machine, memory) = machine();
    fill(&memory, 0x1000, 1, 0);
    machine.place(0, 0x1000);
    machine.doorbell(0);
    // Clear Bus Master Enable.
    machine.config_write(4, &[2, 0]);
    assert_eq!(machine.doorbell(0), 2);
    machine.config_write(4, &[6, 0]);
    machine.ring_memory(0);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![], [1, 1, 1]));
    assert_eq!(machine.doorbell(0), 0);
    machine.ring_memory(0);
    assert_eq!(machine.interrupts(), [message(1)]);
}

#[test]
fn slots_in_memory_wait_for_bus_master_enable_and_are_reset_with_the_others() {
    let (machine, memory) = machine();
    fill(&memory, 0x1000, 1, 0);
    machine.place(5, 0x1000);
    machine.doorbell(5);
    machine.config_write(4, &[2, 0]);
    machine.ring_memory(5);
    assert_eq!((machine.interrupts(), machine.selected(5)), (vec![], PLACED | PENDING));
    machine.config_write(4, &[6, 0]);
    assert_eq!(machine.interrupts(), [message(1)]);
    machine.write(0x014, 1);
    let registers = [SELECT, ADDRESS, ADDRESS + 4, RESULT].map(|register| machine.read(register));
    assert_eq!((registers, machine.selected(5), machine.counters()), ([0; 4], MASK, [0; 3]));
    machine.ring_memory(5);
    assert_eq!(machine.interrupts(), []);
}

#[test]
fn a_device_without_slots_in_memory_has_none() {
    let machine = Machine::queues(4);
    assert_eq!((machine.place(0, 0x1000), machine.doorbell(0), machine.selected(0)), (1, 1, 0));
    machine.write(RING, 4);
    assert_eq!(machine.counters(), [0, 0, 3]);
}
