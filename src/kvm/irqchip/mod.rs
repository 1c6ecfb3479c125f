//! What an in-kernel interrupt controller occupies in the routing table, and what it leaves for messages.
//!
//! Owns nothing. Each architecture has its own [`Irqchip`], with the pins that its KVM routes at start. Invariant: GSIs
//! below `Irqchip::FIRST_GSI` are pins, all others are messages. No lock.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_irqchip,
};

use crate::router::Gsi;
pub use arch::Irqchip;

/// Entries of a routing table that this crate can hand over: KVM_MAX_IRQ_ROUTES of every kernel so far. One more than the
/// highest GSI.
const MAX_ROUTES: u32 = 4096;

impl Irqchip {
    /// All GSIs that messages can have.
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
