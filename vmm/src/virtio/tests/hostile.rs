//! A hostile driver: any write in any order. Nothing panics or blocks, the device writes only to offered buffers, and
//! it works again after a reset.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::registers::COMMON_FEATURES;
use super::super::rng::MOST_BYTES;
use super::{AVAILABLE, BUFFERS, DESCRIPTORS, Driver, ENTRIES, Machine, USED, at, message};

#[derive(Clone, Debug)]
enum Op {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    ConfigRead(u64, usize),
    ConfigWrite(u64, Vec<u8>),
    Scribble(u64, Vec<u8>),
    Offer(u16),
    Drive,
    Serve,
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()];
    prop::collection::vec(byte, 0..=17)
}

fn op() -> impl Strategy<Value = Op> {
    let bar = prop_oneof![4 => 0u64..0x40, 1 => 0x0u64..0x8010, 1 => 0x3ff0u64..0x4040];
    let config = prop_oneof![1 => 0u64..0x100, 1 => 0x40u64..0xb0, 1 => 0xff0u64..0x1000];
    let structure = |start: u64| start..start + 0x220;
    let memory = prop_oneof![structure(DESCRIPTORS), structure(AVAILABLE), structure(USED)];
    prop_oneof![
        1 => (bar.clone(), 0usize..17).prop_map(|(at, len)| Op::Read(at, len)),
        4 => (bar, bytes()).prop_map(|(at, data)| Op::Write(at, data)),
        1 => (config.clone(), 0usize..17).prop_map(|(at, len)| Op::ConfigRead(at, len)),
        2 => (config, bytes()).prop_map(|(at, data)| Op::ConfigWrite(at, data)),
        4 => (memory, bytes()).prop_map(|(at, data)| Op::Scribble(at, data)),
        2 => (0u16..ENTRIES + 2).prop_map(Op::Offer),
        2 => Just(Op::Drive),
        3 => Just(Op::Serve),
    ]
}

/// Like [`Machine::drive`], for a device in any state.
fn drive(machine: &mut Machine) {
    machine.config_write(0x10, &(machine.bar as u32).to_le_bytes());
    machine.config_write(4, &[6, 0]);
    machine.available = 0;
    machine.memory.write_slice(&[0; 0x4000], GuestAddress(0)).unwrap();
    machine.config_write(machine.msix() + 2, &[0, 0]);
    machine.enable_msix();
    machine.router.take_delivered();
    machine.drive(COMMON_FEATURES);
}

fn perform(machine: &mut Machine, op: Op) {
    match op {
        Op::Read(at, len) => {
            let mut data = vec![0; len];
            machine.root.mmio().mmio_read(vm_device::bus::MmioAddress(machine.bar), at, &mut data);
        }
        Op::Write(at, data) => machine.write(at, &data),
        Op::ConfigRead(at, len) => {
            let mut data = vec![0; len];
            machine.root.ecam().mmio_read(vm_device::bus::MmioAddress(0), (8 << 12) + at, &mut data);
        }
        Op::ConfigWrite(at, data) => machine.config_write(at, &data),
        Op::Scribble(at, data) => machine.memory.write_slice(&data, GuestAddress(at)).unwrap(),
        Op::Offer(head) => machine.offer(head),
        Op::Drive => drive(machine),
        Op::Serve => {
            let before = drawn(machine);
            machine.write16(at::NOTIFY, 0);
            machine.turn();
            let most = u64::from(ENTRIES) * u64::from(MOST_BYTES);
            assert!(drawn(machine) - before <= most, "one look at a queue is bounded");
        }
    }
}

fn drawn(machine: &Machine) -> u64 {
    machine.transport.report()["bytes"].as_u64().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_driver_hurts_the_host_or_the_device_beyond_a_reset(ops in prop::collection::vec(op(), 0..200)) {
        let mut machine = Machine::driven();
        ops.into_iter().for_each(|op| perform(&mut machine, op));
        drive(&mut machine);
        machine.request(BUFFERS, 64);
        prop_assert_eq!(machine.used(), (1, 0, 64));
        prop_assert_eq!(machine.router.take_delivered(), [message(1)]);
    }
}

#[test]
fn every_access_of_every_offset_and_width_is_answered() {
    let machine = Machine::driven();
    for value in [0x00, 0x01, 0x5a, 0xff] {
        for len in 0..=9 {
            let mut data = vec![value; len];
            for offset in (0..0x50).chain(0xff8..0x1010).chain(0x1ff8..0x2010).chain(0x2ff8..0x3010) {
                machine.write(offset, &data);
                machine.root.mmio().mmio_read(vm_device::bus::MmioAddress(machine.bar), offset, &mut data);
                data.fill(value);
            }
            for offset in (0x40..0x100).chain(0xff0..0x1000) {
                machine.config_write(offset, &data);
                machine.root.ecam().mmio_read(vm_device::bus::MmioAddress(0), (8 << 12) + offset, &mut data);
                data.fill(value);
            }
        }
    }
    machine.reset();
}
