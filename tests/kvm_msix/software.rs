//! A device model's vectors on real KVM. A trigger is delivered without an eventfd, a route or a commit, and the guest takes the
//! interrupt.

use std::sync::Arc;

use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::{MsiMessage, SoftwareMsix, Vector};

use crate::bare_metal::{ENABLE, FUNCTION_MASK, Guest, IRQCHIPS, Machine, fixed};

const VECTOR: Vector = Vector(1);

/// A device model of two vectors, and the guest that it interrupts.
struct Model {
    guest: Guest,
    router: Arc<KvmRouter>,
    msix: SoftwareMsix,
}

impl Model {
    /// With MSI-X on, and [`VECTOR`] unmasked.
    fn of(irqchip: Irqchip, message: MsiMessage) -> Self {
        let machine = Machine::new(irqchip, 2);
        let router = machine.router();
        let bar = Bar::new(0).unwrap();
        let layout = Layout::new(TableSize::new(2).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
        let msix = SoftwareMsix::software(layout, router.clone());
        let model = Self { guest: machine.start(), router, msix };
        model.set_control(ENABLE);
        model.set_message(message);
        model.set_mask(0);
        model
    }

    fn set_control(&self, control: u16) {
        self.msix.write_config(2, &control.to_le_bytes());
    }

    fn set_message(&self, message: MsiMessage) {
        self.msix.write_table(16, &message.address.to_le_bytes());
        self.msix.write_table(24, &message.data.to_le_bytes());
    }

    fn set_mask(&self, control: u32) {
        self.msix.write_table(28, &control.to_le_bytes());
    }

    fn is_pending(&self) -> bool {
        let mut bits = [0];
        self.msix.read_pba(0, &mut bits);
        bits[0] & 1 << VECTOR.0 != 0
    }
}

#[test]
fn each_trigger_is_one_interrupt_with_no_route_and_no_commit() {
    for irqchip in IRQCHIPS {
        let model = Model::of(irqchip, fixed(1, 0x41));
        for count in 1..=1000 {
            model.msix.trigger(VECTOR);
            model.guest.wait_for(1, 0x41, count);
        }
        let (counters, routes) = (model.msix.counters(), model.router.counters());
        assert_eq!((counters.delivered, counters.latched, counters.host_failures), (1000, 0, 0));
        assert_eq!((routes.commits, routes.in_use), (0, 0));
    }
}

#[test]
fn a_masked_vector_latches_and_fires_once_on_unmask() {
    type Write = fn(&Model);
    let masks: [(Write, Write); 2] = [
        (|model| model.set_mask(1), |model| model.set_mask(0)),
        (|model| model.set_control(ENABLE | FUNCTION_MASK), |model| model.set_control(ENABLE)),
    ];
    for irqchip in IRQCHIPS {
        for (mask, unmask) in masks {
            let model = Model::of(irqchip, fixed(1, 0x41));
            mask(&model);
            (0..3).for_each(|_| model.msix.trigger(VECTOR));
            model.guest.settle(1);
            assert_eq!((model.guest.all_interrupts(1), model.is_pending()), (0, true));
            unmask(&model);
            model.guest.wait_for(1, 0x41, 1);
            model.guest.settle(1);
            assert_eq!((model.guest.all_interrupts(1), model.is_pending()), (1, false));
            let counters = model.msix.counters();
            assert_eq!((counters.delivered, counters.latched), (1, 3));
        }
    }
}

#[test]
fn a_vector_that_is_rewritten_fires_at_its_new_place_only() {
    let model = Model::of(Irqchip::Kernel, fixed(0, 0x41));
    model.msix.trigger(VECTOR);
    model.guest.wait_for(0, 0x41, 1);
    model.set_message(fixed(1, 0x42));
    model.msix.trigger(VECTOR);
    model.guest.wait_for(1, 0x42, 1);
    model.guest.settle(0);
    assert_eq!(model.guest.all_interrupts(0), 1);
}

#[test]
fn a_vector_whose_message_is_no_interrupt_waits_for_one_that_is() {
    let model = Model::of(Irqchip::Kernel, MsiMessage { address: 0xfee0_0000, data: 0x08 });
    model.msix.trigger(VECTOR);
    assert!(model.is_pending());
    model.set_message(fixed(1, 0x41));
    model.guest.wait_for(1, 0x41, 1);
    model.guest.settle(0);
    assert_eq!((model.guest.all_interrupts(0), model.msix.counters().host_failures), (0, 0));
}
