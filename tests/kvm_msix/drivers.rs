//! Sequences of accesses that drivers, firmware and kernels make to MSI-X, on real KVM. `tests/domain/drivers.rs` has more, over
//! fakes.

use vm_msi::MsiMessage;

use crate::bare_metal::{ENABLE, FUNCTION_MASK, IRQCHIPS, Machine, Operation, fixed};

/// iPXE: the driver polls a message whose address is in the guest's memory. The next driver writes the address of an APIC.
#[test]
fn a_message_to_memory_interrupts_no_cpu_and_is_no_interrupt_of_the_next_driver() {
    for irqchip in IRQCHIPS {
        // With a thread that delivers from userspace, and without one.
        for watched in [false, true] {
            let (guest, card) = Machine::with_card(irqchip, 1, 4);
            let _relay = watched.then(|| card.msix.relay_fd().unwrap());
            guest.perform(0, &[card.control(ENABLE)]);
            guest.perform(0, &card.request(1, MsiMessage { address: 0x12_3000, data: 0x41 }));
            card.device.raise(1);
            guest.settle(0);
            assert!(!card.is_pending(&guest, 0, 1), "a message that was sent is not pending");
            if watched {
                card.msix.deliver_relayed();
            }
            assert_eq!((guest.all_interrupts(0), card.msix.failed_steps()), (0, 0));

            card.device.raise(1);
            guest.perform(0, &[card.mask(1)]);
            guest.perform(0, &card.request(1, fixed(0, 0x42)));
            guest.settle(0);
            assert_eq!(guest.all_interrupts(0), 0, "it was sent to memory before");
            card.device.raise(1);
            guest.wait_for(0, 0x42, 1);
            guest.settle(0);
            assert_eq!(guest.all_interrupts(0), 1);

            // And back, with no mask between.
            guest.perform(0, &card.message(1, MsiMessage { address: 0x12_3000, data: 0x41 }));
            card.device.raise(1);
            guest.settle(0);
            assert_eq!(guest.all_interrupts(0), 1);
            assert!(!card.is_pending(&guest, 0, 1));
        }
    }
}

/// FreeBSD rewrites an entry while it is unmasked. illumos and Windows write QWORDs. The second QWORD has the data and the mask bit.
#[test]
fn an_entry_that_is_rewritten_unmasked_and_by_qwords_fires_at_its_new_place() {
    for irqchip in IRQCHIPS {
        let (guest, card) = Machine::with_card(irqchip, 2, 4);
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &card.request(1, fixed(0, 0x41)));
        guest.perform(0, &card.message(1, fixed(1, 0x52)));
        card.device.raise(1);
        guest.wait_for(1, 0x52, 1);

        let MsiMessage { address, data } = fixed(1, 0x63);
        let entry = card.entry(2);
        let second = |data: u32, mask: u64| Operation::write(entry + 8, 8, u64::from(data) | mask << 32);
        guest.perform(0, &[Operation::write(entry, 8, address), second(data, 0)]);
        card.device.raise(2);
        guest.wait_for(1, 0x63, 1);
        guest.perform(0, &[second(data, 1)]);
        card.device.raise(2);
        assert!(card.is_pending(&guest, 0, 2));
        guest.settle(1);
        assert_eq!(guest.interrupts(1, 0x63), 1);
        guest.perform(0, &[second(0x64, 0)]);
        guest.wait_for(1, 0x64, 1);
        guest.settle(1);
        assert_eq!((guest.all_interrupts(0), guest.all_interrupts(1)), (0, 3));
    }
}

/// Linux, kexec while MSI-X is on: the last kernel has used 64 vectors, and the next one uses two.
#[test]
fn the_next_kernel_after_kexec_gets_its_own_interrupts_and_none_of_the_last_ones() {
    for irqchip in IRQCHIPS {
        let (guest, card) = Machine::with_card(irqchip, 1, 128);
        guest.perform(0, &[card.control(ENABLE)]);
        for vector in 0..64 {
            guest.perform(0, &card.request(vector, fixed(0, 0x40 + vector as u8)));
        }
        assert_eq!(card.device.bound(), 64);
        // `pci_msix_init`, and then what a driver has Linux do.
        guest.perform(0, &[card.control(0)]);
        guest.perform(0, &[card.control(ENABLE | FUNCTION_MASK)]);
        assert_eq!(card.device.bound(), 0);
        for vector in 0..128 {
            guest.perform(0, &[card.mask(vector)]);
        }
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &card.request(0, fixed(0, 0x90)));
        guest.perform(0, &card.request(1, fixed(0, 0x91)));
        card.device.raise(7);
        card.device.raise(1);
        guest.wait_for(0, 0x91, 1);
        guest.settle(0);
        assert_eq!((guest.all_interrupts(0), card.device.bound()), (1, 2), "no stray interrupt");
        assert!(card.is_pending(&guest, 0, 7));
    }
}

/// Linux, error recovery and resume: the function is reset, and the driver writes all registers again.
#[test]
fn a_driver_that_restores_msi_x_after_a_function_level_reset_gets_interrupts() {
    for irqchip in IRQCHIPS {
        let (guest, card) = Machine::with_card(irqchip, 1, 4);
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &card.request(1, fixed(0, 0x41)));
        for round in 1..=10 {
            guest.perform(0, &[card.mask(1)]);
            card.device.raise(1);
            card.msix.reset(|| card.device.reset());
            guest.perform(0, &[card.control(ENABLE | FUNCTION_MASK)]);
            guest.perform(0, &card.request(1, fixed(0, 0x41)));
            guest.perform(0, &[card.control(ENABLE)]);
            guest.settle(0);
            assert_eq!(guest.all_interrupts(0), round - 1, "what was raised before the reset is forgotten");
            card.device.raise(1);
            guest.wait_for(0, 0x41, round);
        }
    }
}
