//! The PIC, the IOAPIC and their pins.
//!
//! If KVM emulates them, it routes GSI n to pin n of both. Owns nothing. No lock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irq_routing_entry,
};

use super::{MAX_ROUTES, pin_route};

const IOAPIC_PINS: u32 = 24;
const PIC_PINS: u32 = 16;

/// The interrupt controllers of a VM that the kernel emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// PIC, IOAPIC and local APICs (KVM_CREATE_IRQCHIP). Their pins have routes, which every commit carries.
    Kernel,
    /// Local APICs only (KVM_CAP_SPLIT_IRQCHIP). The pins have no routes; their GSIs are reserved.
    Split,
}

impl Irqchip {
    /// The first GSI of a message. Lower GSIs belong to the pins.
    pub(in crate::kvm) const FIRST_GSI: u32 = IOAPIC_PINS;

    /// Examples for tests that are the same for both architectures.
    #[cfg(test)]
    pub(in crate::kvm) const EACH: [Self; 2] = [Self::Kernel, Self::Split];

    /// The routes of the pins, as KVM initialises them. A commit without them would disconnect the serial
    /// port, for example.
    pub fn pin_routes(self) -> impl Iterator<Item = kvm_irq_routing_entry> {
        let pins = match self {
            Self::Kernel => IOAPIC_PINS,
            Self::Split => 0,
        };
        (0..pins).flat_map(|gsi| {
            let pic = match gsi {
                0..8 => Some(KVM_IRQCHIP_PIC_MASTER),
                8..PIC_PINS => Some(KVM_IRQCHIP_PIC_SLAVE),
                _ => None,
            };
            let pic = pic.map(|irqchip| pin_route(gsi, irqchip, gsi % 8));
            std::iter::once(pin_route(gsi, KVM_IRQCHIP_IOAPIC, gsi)).chain(pic)
        })
    }

    /// How many messages fit in a table of `routes` entries (KVM_CAP_IRQ_ROUTING). `routes` is also one more
    /// than the highest GSI.
    pub(in crate::kvm) fn message_routes(self, routes: u32) -> usize {
        let routes = routes.min(MAX_ROUTES);
        let entries = match self {
            Self::Kernel => routes.saturating_sub(IOAPIC_PINS).saturating_sub(PIC_PINS),
            Self::Split => routes.saturating_sub(IOAPIC_PINS),
        };
        entries as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_irqchip_keeps_40_routes_and_leaves_4056() {
        assert_eq!(Irqchip::Kernel.pin_routes().count(), 40);
        assert_eq!(Irqchip::Kernel.message_routes(4096), 4056);
    }

    #[test]
    fn the_split_irqchip_keeps_no_route_and_leaves_4072() {
        assert_eq!(Irqchip::Split.pin_routes().count(), 0);
        assert_eq!(Irqchip::Split.message_routes(4096), 4072);
    }

    #[test]
    fn kvms_limit_bounds_the_messages() {
        assert_eq!(Irqchip::Kernel.message_routes(1024), 984);
        assert_eq!(Irqchip::Split.message_routes(1024), 1000);
        assert_eq!(Irqchip::Kernel.message_routes(40), 0);
        assert_eq!(Irqchip::Split.message_routes(u32::MAX), 4072, "more than a table can have");
    }
}
