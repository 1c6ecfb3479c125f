//! MSI-X as a guest sees it: the accesses that it makes, and the interrupts that it receives.

use std::sync::Arc;

use vm_msi::MsiMessage;
use vm_msi::kvm::Irqchip;

use crate::bare_metal::{Card, ENABLE, FUNCTION_MASK, Guest, IRQCHIPS, Machine, fixed, turn_of_thousands};

/// A guest of one CPU that has turned MSI-X on and requested vector 1 as interrupt 0x41.
fn guest_with_vector_1() -> (Guest, Arc<Card>) {
    let (guest, card) = Machine::with_card(Irqchip::Kernel, 1, 4);
    guest.perform(0, &[card.control(ENABLE)]);
    guest.perform(0, &card.request(1, fixed(0, 0x41)));
    (guest, card)
}

#[test]
fn a_vector_that_the_guest_unmasks_fires_its_own_handler_on_its_own_cpu() {
    for irqchip in IRQCHIPS {
        let (guest, card) = Machine::with_card(irqchip, 2, 4);
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &card.request(2, fixed(1, 0x41)));
        card.device.raise(2);
        guest.wait_for(1, 0x41, 1);
        guest.settle(0);
        assert_eq!((guest.all_interrupts(0), guest.all_interrupts(1)), (0, 1));
    }
}

#[test]
fn each_of_2048_vectors_fires_its_own_handler_on_its_own_cpu() {
    let _turn = turn_of_thousands();
    const CPUS: u8 = 11;
    for irqchip in IRQCHIPS {
        let (guest, card) = Machine::with_card(irqchip, CPUS, 2048);
        let place = |vector: u32| ((vector / 200) as u8, 0x20 + (vector % 200) as u8);
        let requests = (0..2048).flat_map(|vector| {
            let (cpu, handler) = place(vector);
            card.request(vector, fixed(cpu, handler))
        });
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &requests.collect::<Vec<_>>());
        assert_eq!(card.msix.report().live, 2048);

        for round in 1..=2 {
            (0..2048).for_each(|vector| card.device.raise(vector));
            for vector in 0..2048 {
                let (cpu, handler) = place(vector);
                guest.wait_for(cpu, handler, round);
            }
        }
        let all: u64 = (0..CPUS).map(|cpu| guest.all_interrupts(cpu)).sum();
        assert_eq!(all, 2 * 2048, "nothing else came");
    }
}

#[test]
fn a_masked_vector_waits_in_the_pba_and_fires_once_when_unmasked() {
    for irqchip in IRQCHIPS {
        let (guest, card) = Machine::with_card(irqchip, 2, 128);
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &card.request(70, fixed(1, 0x41)));
        guest.perform(0, &[card.mask(70)]);
        assert!(!card.is_pending(&guest, 0, 70));
        for _ in 0..1000 {
            card.device.raise(70);
        }
        assert!(card.is_pending(&guest, 0, 70));
        guest.settle(1);
        assert_eq!(guest.interrupts(1, 0x41), 0, "masked");

        guest.perform(0, &[card.unmask(70)]);
        guest.wait_for(1, 0x41, 1);
        assert!(!card.is_pending(&guest, 0, 70));
        card.device.raise(70);
        guest.wait_for(1, 0x41, 2);
    }
}

#[test]
fn vectors_wait_in_the_pba_while_the_function_is_masked() {
    let (guest, card) = guest_with_vector_1();
    guest.perform(0, &card.request(2, fixed(0, 0x42)));
    guest.perform(0, &[card.control(ENABLE | FUNCTION_MASK), card.mask(2)]);
    card.device.raise(1);
    card.device.raise(2);
    assert_eq!(guest.read(0, card.pba(), 8), 0b110);
    guest.settle(0);
    assert_eq!(guest.all_interrupts(0), 0);

    guest.perform(0, &[card.control(ENABLE)]);
    guest.wait_for(0, 0x41, 1);
    assert_eq!(guest.read(0, card.pba(), 8), 0b100, "vector 2 is still masked on its own");
    guest.perform(0, &[card.unmask(2)]);
    guest.wait_for(0, 0x42, 1);
    assert_eq!(guest.all_interrupts(0), 2);
}

#[test]
fn what_the_device_raised_before_a_vector_was_requested_is_delivered_when_it_is() {
    let (guest, card) = guest_with_vector_1();
    card.device.raise(3);
    card.device.raise(3);
    assert!(card.is_pending(&guest, 0, 3));
    assert_eq!(card.device.bound(), 1, "a vector that was never unmasked has cost nothing");
    guest.perform(0, &card.request(3, fixed(0, 0x43)));
    guest.wait_for(0, 0x43, 1);
    assert!(!card.is_pending(&guest, 0, 3));
}

#[test]
fn a_vector_that_the_guest_releases_goes_back_to_the_host_and_keeps_what_comes() {
    let (guest, card) = guest_with_vector_1();
    guest.perform(0, &[card.mask(1)]);
    card.device.raise(1);
    guest.perform(0, &card.release(1));
    assert_eq!(card.device.bound(), 0);
    assert!(card.is_pending(&guest, 0, 1), "raised before the release");
    card.device.raise(1);
    guest.perform(0, &card.request(1, fixed(0, 0x51)));
    guest.wait_for(0, 0x51, 1);
    assert_eq!(guest.all_interrupts(0), 1);
}

#[test]
fn a_live_vector_that_is_rewritten_fires_at_its_new_place_only() {
    let (guest, card) = Machine::with_card(Irqchip::Kernel, 2, 4);
    guest.perform(0, &[card.control(ENABLE)]);
    guest.perform(0, &card.request(0, fixed(0, 0x41)));
    for round in 1..=100 {
        // No mask: each DWORD alone takes effect, as on a device.
        guest.perform(0, &card.message(0, fixed(1, 0x42)));
        card.device.raise(0);
        guest.wait_for(1, 0x42, round);
        guest.perform(1, &card.message(0, fixed(0, 0x41)));
        card.device.raise(0);
        guest.wait_for(0, 0x41, round);
    }
    assert_eq!((guest.all_interrupts(0), guest.all_interrupts(1)), (100, 100));
}

#[test]
fn vectors_that_share_a_message_each_deliver() {
    let (guest, card) = guest_with_vector_1();
    guest.perform(0, &card.request(2, fixed(0, 0x41)));
    for round in 1..=10 {
        card.device.raise(1);
        guest.wait_for(0, 0x41, 2 * round - 1);
        card.device.raise(2);
        guest.wait_for(0, 0x41, 2 * round);
    }
    guest.perform(0, &[card.mask(1)]);
    card.device.raise(1);
    card.device.raise(2);
    guest.wait_for(0, 0x41, 21);
    guest.settle(0);
    assert_eq!(guest.interrupts(0, 0x41), 21, "vector 1 is masked, vector 2 is not");
}

#[test]
fn nothing_fires_while_msi_x_is_disabled_and_what_was_pending_fires_when_it_is_enabled_again() {
    let (guest, card) = guest_with_vector_1();
    guest.perform(0, &card.request(2, fixed(0, 0x42)));
    guest.perform(0, &[card.mask(2)]);
    card.device.raise(2);
    guest.perform(0, &[card.control(0)]);
    assert_eq!(card.device.bound(), 0, "all went back to the host");
    card.device.raise(1);
    guest.settle(0);
    assert_eq!(guest.all_interrupts(0), 0);

    guest.perform(0, &[card.control(ENABLE)]);
    guest.wait_for(0, 0x41, 1);
    guest.perform(0, &[card.unmask(2)]);
    guest.wait_for(0, 0x42, 1);
    assert_eq!(guest.all_interrupts(0), 2);
}

#[test]
fn a_reset_of_the_function_forgets_what_was_pending_and_masks_all() {
    let (guest, card) = guest_with_vector_1();
    guest.perform(0, &[card.mask(1)]);
    card.device.raise(1);
    card.device.raise(2);
    card.msix.reset(|| card.device.reset());
    assert_eq!(card.device.bound(), 0);
    assert_eq!(guest.read(0, card.pba(), 8), 0);
    assert_eq!(guest.read(0, card.config() + 2, 2), 3, "off, and four vectors");
    assert_eq!(guest.read(0, card.entry(1) + 12, 4), 1, "masked");

    guest.perform(0, &[card.control(ENABLE)]);
    guest.perform(0, &card.request(1, fixed(0, 0x41)));
    guest.settle(0);
    assert_eq!(guest.all_interrupts(0), 0);
    card.device.raise(1);
    guest.wait_for(0, 0x41, 1);
}

#[test]
fn a_vector_whose_message_is_no_interrupt_never_fires_and_harms_no_other() {
    let (guest, card) = guest_with_vector_1();
    let not_interrupts = [
        MsiMessage::BLANK,
        MsiMessage { address: 0xfed0_0000, data: 0x60 },
        MsiMessage { address: 0x1_fee0_0000, data: 0x60 },
        MsiMessage { address: 0xfee0_0000, data: 0x08 },
        MsiMessage { address: 0xfee0_0000, data: 0x560 },
    ];
    for message in not_interrupts {
        guest.perform(0, &[card.mask(2)]);
        guest.perform(0, &card.request(2, message));
        card.device.raise(2);
        // A message to memory is never pending: the device has sent it.
        let is_for_an_apic = message.address >> 20 == 0xfee;
        assert_eq!(card.is_pending(&guest, 0, 2), is_for_an_apic, "{message}");
        guest.settle(0);
    }
    assert_eq!(guest.all_interrupts(0), 0);
    assert_eq!(card.msix.failed_steps(), 0, "a guest's mistake is no failure of the host");
    card.device.raise(1);
    guest.wait_for(0, 0x41, 1);
    guest.perform(0, &[card.mask(2)]);
    guest.perform(0, &card.request(2, fixed(0, 0x42)));
    guest.wait_for(0, 0x42, 1);
    guest.settle(0);
    assert_eq!(guest.interrupts(0, 0x42), 1, "what waited, and nothing that went to memory");
}

#[test]
fn a_message_may_be_an_nmi() {
    const NMI: u32 = 4 << 8;
    let (guest, card) = guest_with_vector_1();
    guest.perform(0, &card.request(2, MsiMessage { data: NMI, ..fixed(0, 0) }));
    card.device.raise(2);
    guest.wait_for(0, 2, 1);
}
