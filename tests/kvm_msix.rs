//! What a guest sees of MSI-X, on real KVM: a bare-metal guest makes the accesses and takes the interrupts.

mod bare_metal;

use bare_metal::{Card, ENABLE, Guest, Machine, fixed};
use std::sync::Arc;
use vm_msi::kvm::Irqchip;

fn guest_with_card(irqchip: Irqchip, cpus: u8, vectors: u16) -> (Guest, Arc<Card>) {
    let mut machine = Machine::new(irqchip, cpus);
    let card = machine.plug(vectors);
    (machine.start(), card)
}

#[test]
fn a_vector_that_the_guest_unmasks_fires_its_own_handler_on_its_own_cpu() {
    for irqchip in [Irqchip::Kernel, Irqchip::Split] {
        let (guest, card) = guest_with_card(irqchip, 2, 4);
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &card.request(2, fixed(1, 0x41)));
        card.device.raise(2);
        guest.wait_for(1, 0x41, 1);
        guest.settle(0);
        assert_eq!((guest.all_interrupts(0), guest.all_interrupts(1)), (0, 1));
    }
}
