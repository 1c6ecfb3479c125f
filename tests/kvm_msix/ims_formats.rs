//! Control DWORDs of other formats on real KVM: a mask bit of the other polarity, and none at all.

use vm_msi::MsiMessage;
use vm_msi::ims::{Bit, ControlFormat, MaskBit, MaskedWhen};

use crate::bare_metal::{IRQCHIPS, Machine, fixed};

const SLOT: u32 = 63;

#[test]
fn a_slot_with_an_enable_bit_in_place_of_a_mask_bit_is_silent_until_the_bit_is_set() {
    const ENABLED: u64 = 1 << 31;
    const PENDING: u64 = 1;
    let mask = MaskBit { bit: Bit::new(31).unwrap(), masked_when: MaskedWhen::Clear };
    let control = ControlFormat::new(Some(mask), Bit::new(0), None).unwrap();
    for irqchip in IRQCHIPS {
        let mut machine = Machine::new(irqchip, 2);
        let slots = machine.plug_slots_with(64, control);
        let guest = machine.start();
        guest.perform(0, &slots.message(SLOT, fixed(1, 0x41)));
        slots.device.raise(SLOT);
        guest.settle(1);
        assert_eq!((guest.all_interrupts(1), slots.device.bound()), (0, 0), "0 masks");
        assert_eq!(guest.perform(0, &[slots.read_control(SLOT)]), [PENDING]);
        guest.perform(0, &[slots.write_control(SLOT, ENABLED)]);
        guest.wait_for(1, 0x41, 1);
        slots.device.raise(SLOT);
        guest.wait_for(1, 0x41, 2);
        assert_eq!(guest.perform(0, &[slots.read_control(SLOT)]), [ENABLED]);

        guest.perform(0, &[slots.write_control(SLOT, 0)]);
        (0..3).for_each(|_| slots.device.raise(SLOT));
        guest.settle(1);
        assert_eq!(guest.all_interrupts(1), 2);
        assert_eq!(guest.perform(0, &[slots.read_control(SLOT)]), [PENDING]);
        guest.perform(0, &slots.message(SLOT, fixed(0, 0x42)));
        guest.perform(0, &[slots.write_control(SLOT, ENABLED)]);
        guest.wait_for(0, 0x42, 1);
        assert_eq!(guest.all_interrupts(1), 2, "nothing at its old place");
    }
}

#[test]
fn a_slot_without_a_mask_bit_fires_as_soon_as_its_message_is_an_interrupt_until_it_is_cleared() {
    let control = ControlFormat::new(None, Bit::new(1), None).unwrap();
    for irqchip in IRQCHIPS {
        let mut machine = Machine::new(irqchip, 2);
        let slots = machine.plug_slots_with(64, control);
        let guest = machine.start();
        slots.device.raise(SLOT);
        let [low, high, data] = slots.message(SLOT, fixed(1, 0x41));
        guest.perform(0, &[low, high]);
        guest.settle(1);
        assert_eq!(guest.all_interrupts(1), 0, "its data is no interrupt yet");
        guest.perform(0, &[data]);
        guest.wait_for(1, 0x41, 1);

        for round in 1..=50 {
            // Each DWORD alone takes effect: the vector is moved by its data, with its address as it was.
            guest.perform(0, &[slots.message(SLOT, fixed(1, 0x42))[2]]);
            slots.device.raise(SLOT);
            guest.wait_for(1, 0x42, round);
            guest.perform(0, &[slots.message(SLOT, fixed(1, 0x41))[2]]);
            slots.device.raise(SLOT);
            guest.wait_for(1, 0x41, 1 + round);
        }

        guest.perform(0, &slots.message(SLOT, MsiMessage::BLANK));
        slots.device.raise(SLOT);
        guest.settle(1);
        assert_eq!((guest.all_interrupts(0), guest.all_interrupts(1)), (0, 101), "a cleared slot is silent");
        guest.perform(0, &slots.message(SLOT, fixed(0, 0x43)));
        guest.wait_for(0, 0x43, 1);
        slots.device.raise(SLOT);
        guest.wait_for(0, 0x43, 2);
    }
}
