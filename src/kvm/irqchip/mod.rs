//! The entries of the routing table that an in-kernel interrupt controller takes, and the number that is left
//! for messages.
//!
//! Owns nothing. Each architecture has its own [`Irqchip`], with the pins that its KVM initialises.
//! Invariant: GSIs below `Irqchip::FIRST_GSI` are pins, and all others are messages. No lock.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_irqchip,
};

use crate::router::Gsi;
pub use arch::Irqchip;

/// The most entries of a routing table that this crate commits: KVM_MAX_IRQ_ROUTES of every kernel so far. It
/// is one more than the highest GSI.
const MAX_ROUTES: u32 = 4096;

impl Irqchip {
    /// All GSIs of messages.
    pub(super) fn message_gsis() -> impl Iterator<Item = Gsi> + Send {
        (Self::FIRST_GSI..MAX_ROUTES).map(Gsi)
    }

    /// Whether a message can have this GSI.
    pub(super) fn is_for_messages(gsi: Gsi) -> bool {
        (Self::FIRST_GSI..MAX_ROUTES).contains(&gsi.0)
    }
}

fn pin_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip, pin } },
        ..Default::default()
    }
}
