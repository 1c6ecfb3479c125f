//! The register page: common registers, and accesses of unusual width.

use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::Machine;

#[test]
fn the_identification_registers_describe_the_device() {
    let machine = Machine::queues(65_536);
    let [id, version, slots, memory_slots, queues] =
        [0x000, 0x004, 0x008, 0x00c, 0x010].map(|register| machine.read(register));
    assert_eq!(id.to_le_bytes(), *b"IMSQ");
    assert_eq!((version, slots, memory_slots, queues), (1, 65_536, 0, 65_536));
    let timer = Machine::timer(64);
    assert_eq!((timer.read(0).to_le_bytes(), timer.read(8)), (*b"IMST", 64));
}

#[test]
fn read_only_and_absent_registers_ignore_writes() {
    let machine = Machine::queues(4);
    for register in (0x000..0x1000).step_by(4).filter(|register| !(0x014..0x060).contains(register)) {
        let before = machine.read(register);
        machine.write(register, u32::MAX);
        assert_eq!(machine.read(register), before, "{register:#x}");
    }
    assert_eq!(machine.counters(), [0; 3]);
    assert_eq!(machine.read(0x080), 0, "a timer's");
}

#[test]
fn a_wide_access_is_two_and_a_narrow_one_writes_the_whole_register() {
    let machine = Machine::timer(4);
    let nanoseconds = machine.bars[0] + 0x080;
    machine.write_at(nanoseconds, &0x1122_3344_5566_7788u64.to_le_bytes());
    assert_eq!((machine.read(0x080), machine.read(0x084)), (0x5566_7788, 0x1122_3344));
    machine.write_at(nanoseconds + 1, &[0xaa]);
    assert_eq!((machine.read(0x080), machine.read_at::<2>(nanoseconds + 1)), (0x5566_aa88, 0x66aa));
    // An access that reaches into a command register: its bytes are the index.
    machine.write_at(nanoseconds + 6, &[0, 0, 3, 0, 0, 0]);
    assert_eq!(machine.read(0x090), 1, "slot 3 is armed");
}

proptest! {
    #[test]
    fn no_access_is_an_error(
        accesses in proptest::collection::vec(
            (0..3usize, 0..0x1100u64, proptest::collection::vec(any::<u8>(), 1..16), any::<bool>()), 1..200
        ),
    ) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let (machine, timer) = (Machine::with_memory_slots(100, 100, &memory), Machine::timer(100));
        for (bar, offset, data, is_write) in accesses {
            for bars in [&machine.bars, &timer.bars] {
                let address = bars[bar] + offset;
                if is_write {
                    machine.write_at(address, &data);
                    timer.write_at(address, &data);
                } else {
                    machine.read_at::<16>(address);
                    timer.read_at::<16>(address);
                }
            }
        }
        let [triggers, dropped, _] = machine.counters();
        prop_assert!(dropped <= triggers);
        prop_assert_eq!(machine.read(0), u32::from_le_bytes(*b"IMSQ"));
    }
}
