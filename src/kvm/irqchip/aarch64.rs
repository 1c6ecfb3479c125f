//! The GIC and its shared peripheral interrupts (SPIs).
//!
//! KVM routes GSI n to SPI n, which is INTID 32 + n, when the vGIC is initialised. Owns nothing. No lock.

use kvm_bindings::kvm_irq_routing_entry;

use super::{MAX_ROUTES, pin_route};

/// The largest KVM_DEV_ARM_VGIC_GRP_NR_IRQS is 992. The first 32 of these are private to each vCPU.
const MAX_SPIS: u32 = 960;

/// The interrupt controller of a VM, which the kernel emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// A GICv3 (KVM_DEV_TYPE_ARM_VGIC_V3). Its SPIs have routes, which every commit carries.
    Gic {
        /// KVM_DEV_ARM_VGIC_GRP_NR_IRQS without the 32 private interrupts. KVM supports 960. Larger values
        /// count as 960.
        spis: u32,
    },
}

impl Irqchip {
    /// The first GSI of a message. All lower ones are reserved for SPIs, also if the GIC has fewer, so
    /// message GSIs are the same for every VM.
    pub(in crate::kvm) const FIRST_GSI: u32 = MAX_SPIS;

    /// Examples for tests that are the same for both architectures.
    #[cfg(test)]
    pub(in crate::kvm) const EACH: [Self; 2] = [Self::Gic { spis: MAX_SPIS }, Self::Gic { spis: 64 }];

    /// The routes of the SPIs, as KVM initialises them. A commit without them would disconnect every irqfd on
    /// an SPI.
    pub fn pin_routes(self) -> impl Iterator<Item = kvm_irq_routing_entry> {
        let Self::Gic { spis } = self;
        (0..spis.min(MAX_SPIS)).map(|spi| pin_route(spi, 0, spi))
    }

    /// How many messages fit in a table of `routes` entries (KVM_CAP_IRQ_ROUTING). `routes` is also one more
    /// than the highest GSI.
    pub(in crate::kvm) fn message_routes(self, routes: u32) -> usize {
        routes.min(MAX_ROUTES).saturating_sub(Self::FIRST_GSI) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spi_keeps_its_route() {
        for (spis, kept) in [(0, 0), (32, 32), (960, 960), (u32::MAX, 960)] {
            let routes: Vec<_> = Irqchip::Gic { spis }.pin_routes().collect();
            assert_eq!(routes.len(), kept);
            for (spi, route) in (0..).zip(routes) {
                // SAFETY: the entry is a route to an irqchip's pin.
                let pin = unsafe { route.u.irqchip };
                assert_eq!((route.gsi, pin.irqchip, pin.pin), (spi, 0, spi));
            }
        }
    }

    #[test]
    fn the_largest_gic_leaves_room_for_3136_messages() {
        let gic = Irqchip::Gic { spis: 960 };
        assert_eq!(gic.message_routes(4096), 3136);
        assert_eq!(gic.pin_routes().count() + gic.message_routes(4096), 4096);
    }
}
