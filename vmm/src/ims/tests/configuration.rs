//! Discovery of a device by its driver, and function level reset.

use std::sync::Arc;

use vm_msi::RequesterId;
use vm_msi::backend::{Capabilities, Unsupported};
use vm_msi::ims::SlotCount;
use vm_msi::remap::{Identity, Remapped};
use vm_msi::testing::{Failures, FakeRouter};

use super::{Driver, MASK, Machine, message};
use crate::ims::interrupts::{InterruptConfig, Interrupts, InterruptsError, MsixPresence};

const MSI: u8 = 0x05;
const EXPRESS: u8 = 0x10;
const MSIX: u8 = 0x11;

#[test]
fn each_device_has_its_id_and_no_intx() {
    assert_eq!(Machine::timer(1).config_read::<4>(0), 0x10f0_1af4);
    let machine = Machine::queues(1);
    assert_eq!(machine.config_read::<4>(0), 0x10f1_1af4);
    assert_eq!(machine.config_read::<4>(8), 0x0880_0001, "class and revision");
    assert_eq!(machine.config_read::<1>(0x3d), 0, "interrupt pin");
}

#[test]
fn queues_have_msi_x_and_a_timer_has_neither_msi_nor_msi_x() {
    let machine = Machine::queues(1);
    assert_eq!(machine.config_read::<2>(machine.capability(MSIX).unwrap() + 2) & 0x7ff, 1, "2 vectors");
    assert_eq!(machine.capability(MSI), None);
    let timer = Machine::timer(1);
    assert_eq!((timer.capability(MSI), timer.capability(MSIX), timer.bars[2]), (None, None, 0));
}

#[test]
fn bars_are_64_bit_and_sized_by_their_contents() {
    for (slots, bytes) in [(1, 0x1000u32), (256, 0x1000), (257, 0x2000), (65_536, 0x10_0000)] {
        let machine = Machine::queues(slots);
        for (bar, expected) in [(0, 0x1000), (2, bytes), (4, 0x1000)] {
            machine.config_write(0x10 + 4 * bar, &[0xff; 8]);
            let low = machine.config_read::<4>(0x10 + 4 * bar);
            assert_eq!((low & 0xf, low & !0xf), (0b0100, !(expected - 1)), "BAR {bar}, {slots} slots");
            assert_eq!(machine.config_read::<4>(0x14 + 4 * bar), u32::MAX);
        }
    }
}

#[test]
fn the_function_is_an_integrated_endpoint_that_can_be_reset() {
    let machine = Machine::queues(1);
    let at = machine.capability(EXPRESS).unwrap();
    assert_eq!(machine.config_read::<2>(at + 2), 0x0092);
    assert_eq!(machine.config_read::<4>(at + 4), 0x1000_8000);
    machine.config_write(at + 8, &[0xff, 0x7f]);
    assert_eq!(machine.config_read::<2>(at + 8), 0x000f, "error reporting can be enabled");
}

#[test]
fn scalable_iov_says_that_there_is_an_ims() {
    let machine = Machine::queues(1);
    let capability = |beyond| (0..beyond).map(|dword| machine.config_read::<4>(0x100 + 4 * dword)).collect();
    let before: Vec<u32> = capability(7);
    assert_eq!(before, [0x0001_0023, 0x0181_8086, 5, 1, 1, 1, 0]);
    machine.config_write(0x100, &[0xff; 24]);
    let after: Vec<u32> = capability(6);
    assert_eq!(after, [0x0001_0023, 0x0181_8086, 5, 1, u32::MAX, 1], "the page size can be set");
    assert_eq!(Machine::timer(1).config_read::<4>(0x114), 1);
}

#[test]
fn a_router_without_ims_is_refused() {
    let slots = SlotCount::new(1).unwrap();
    let config = InterruptConfig { slots, memory_slots: None, msix: MsixPresence::Present };
    let fewer = Capabilities { ims: false, ..Capabilities::UNLIMITED };
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let parent = Remapped::new(router, Arc::new(Identity::allowing(fewer)), RequesterId(8));
    let refused = Interrupts::new(config, Arc::new(parent)).map(|_| ()).unwrap_err();
    assert!(matches!(refused, InterruptsError::Unsupported(Unsupported::Ims)), "{refused}");
}

#[test]
fn a_function_level_reset_resets_all_state() {
    let machine = Machine::queues(8);
    machine.set_up(3, 0);
    machine.config_write(machine.capability(MSIX).unwrap() + 2, &0x8000u16.to_le_bytes());
    machine.write(0x020, 3);
    machine.write(0x020, 100);
    assert_eq!(machine.interrupts(), [message(3)]);
    let bar = machine.config_read::<4>(0x18);
    machine.config_write(machine.capability(EXPRESS).unwrap() + 8, &[0, 0x80]);
    assert_eq!((machine.config_read::<2>(4), machine.config_read::<4>(0x18) & !0xf), (0, 0));
    assert_eq!(machine.read(0x000), u32::MAX, "it decodes nothing");
    // Restore the registers as a guest does.
    machine.config_write(0x18, &bar.to_le_bytes());
    machine.config_write(0x10, &(machine.bars[0] as u32).to_le_bytes());
    machine.config_write(0x14, &((machine.bars[0] >> 32) as u32).to_le_bytes());
    machine.config_write(0x1c, &((machine.bars[1] >> 32) as u32).to_le_bytes());
    machine.config_write(4, &[6, 0]);
    assert_eq!((machine.counters(), machine.control(3)), ([0; 3], MASK));
    assert_eq!(machine.config_read::<2>(machine.capability(MSIX).unwrap() + 2), 1, "MSI-X is off");
    machine.write(0x020, 3);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![], [1, 1, 0]));
}
