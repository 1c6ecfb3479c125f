//! The VM's interrupt controllers, and the interrupt lines of platform devices.
//!
//! With `--irqchip kernel`, KVM emulates all of them. With `split`, KVM emulates the local APICs and the VMM the
//! IOAPIC ([`crate::devices::ioapic`]). Both are created before the first vCPU. Message-signalled interrupts go
//! through the router in either case. [`level`] has the level-triggered lines of passed-through devices.

pub mod level;

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS,
    kvm_enable_cap, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi,
    kvm_irqchip,
};
use kvm_ioctls::{Cap, VmFd};
use vm_msi::apic::DestinationIds;
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::message::MsiMessage;
use vm_msi::router::RouterError;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::cli::IrqChip;
use crate::devices::ioapic::{EndRoutes, Ioapic};
use crate::error::{Context, Error, Result};
use crate::interrupts::level::{IoapicLine, KvmLine, LevelLine};
use crate::layout;

/// The interrupt controllers of a VM.
pub struct Controllers {
    vm: Arc<VmFd>,
    router: Arc<KvmRouter>,
    /// The VMM's IOAPIC, with a split irqchip.
    ioapic: Option<Arc<Ioapic>>,
}

impl Controllers {
    /// Creates the controllers of a VM that has no vCPU yet, for `cpus` vCPUs.
    ///
    /// # Errors
    /// [`Error::Host`] if KVM refuses them. [`Error::Input`] if its messages cannot reach all vCPUs.
    pub fn new(vm: &Arc<VmFd>, place: IrqChip, cpus: u16) -> Result<Self> {
        // VMX hosts without unrestricted guest use these pages for real mode. Other hosts ignore them.
        let tss = usize::try_from(layout::KVM_TSS).context("placing the task state")?;
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).context("placing the identity map")?;
        vm.set_tss_address(tss).context("placing the task state")?;
        let irqchip = match place {
            IrqChip::Kernel => {
                vm.create_irq_chip().context("creating the interrupt controllers")?;
                mask_pics(vm).context("masking the PICs")?;
                Irqchip::Kernel
            }
            IrqChip::Split => {
                let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
                split.args[0] = layout::IOAPIC_PINS.into();
                vm.enable_cap(&split)
                    .context("splitting the interrupt controllers (KVM_CAP_SPLIT_IRQCHIP)")?;
                Irqchip::Split
            }
        };
        let ids = destination_ids(vm)?;
        if u32::from(cpus) > ids.addressable() {
            let most = ids.addressable();
            return Err(Error::input(
                format!("--cpus {cpus}"),
                format!("this KVM's interrupts reach at most {most} CPUs"),
            ));
        }
        let router = KvmRouter::new(Arc::clone(vm), irqchip, cpus.into(), ids)
            .context("creating the interrupt router")?;
        let router = Arc::new(router);
        let ioapic =
            (irqchip == Irqchip::Split).then(|| Arc::new(Ioapic::new(router.clone(), router.clone())));
        Ok(Self { vm: Arc::clone(vm), router, ioapic })
    }

    /// The VM's message router.
    #[must_use]
    pub fn router(&self) -> &Arc<KvmRouter> {
        &self.router
    }

    /// The VMM's IOAPIC for the MMIO bus, with a split irqchip.
    #[must_use]
    pub fn ioapic(&self) -> Option<&Arc<Ioapic>> {
        self.ioapic.as_ref()
    }

    /// An edge-triggered line to `gsi`.
    ///
    /// # Errors
    /// [`Error::Host`] if the host refuses the eventfd or the irqfd.
    pub fn line(&self, gsi: u32) -> Result<Line> {
        if let Some(ioapic) = &self.ioapic {
            return Ok(Line::Ioapic(Arc::clone(ioapic), gsi));
        }
        let eventfd = EventFd::new(EFD_NONBLOCK).context("creating an eventfd")?;
        self.vm.register_irqfd(&eventfd, gsi).context(format!("attaching an irqfd to GSI {gsi}"))?;
        Ok(Line::Irqfd(eventfd))
    }

    /// A level-triggered line to `gsi`, for one device.
    #[must_use]
    pub fn level_line(&self, gsi: u32) -> Arc<dyn LevelLine> {
        match &self.ioapic {
            Some(ioapic) => Arc::new(IoapicLine::new(ioapic, gsi)),
            None => Arc::new(KvmLine { vm: Arc::clone(&self.vm), gsi }),
        }
    }
}

/// With a split irqchip, the GSIs below the messages' are the pins of the VMM's IOAPIC.
impl EndRoutes for KvmRouter {
    fn set(&self, routes: &[(u32, MsiMessage)]) -> std::result::Result<(), RouterError> {
        let route = |(gsi, message): &(u32, MsiMessage)| {
            let msi = kvm_irq_routing_msi {
                address_lo: message.address_low(),
                address_hi: message.address_high(),
                data: message.data,
                ..Default::default()
            };
            kvm_irq_routing_entry {
                gsi: *gsi,
                type_: KVM_IRQ_ROUTING_MSI,
                u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
                ..Default::default()
            }
        };
        self.set_own_entries(routes.iter().map(route).collect())
    }
}

/// Masks every input of both PICs, as firmware leaves them. After KVM_CREATE_IRQCHIP they are unmasked with vector base 0. The ACPI
/// tables say that there is no PIC: without a mask, an interrupt of COM1 would reach the guest as exception 4.
fn mask_pics(vm: &VmFd) -> std::result::Result<(), kvm_ioctls::Error> {
    for chip_id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE] {
        let mut pic = kvm_irqchip { chip_id, ..Default::default() };
        vm.get_irqchip(&mut pic)?;
        pic.chip.pic.imr = 0xff;
        vm.set_irqchip(&pic)?;
    }
    Ok(())
}

/// Enables 32-bit destination IDs if KVM has them. Returns the destination IDs that the guest may use.
fn destination_ids(vm: &VmFd) -> Result<DestinationIds> {
    /// Without the second flag, a message to APIC 255 would be a broadcast.
    const API: u32 = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
    let offered = u32::try_from(vm.check_extension_int(Cap::X2ApicApi)).unwrap_or(0);
    if offered & API != API {
        return Ok(DestinationIds::Bits8);
    }
    let enable =
        kvm_enable_cap { cap: KVM_CAP_X2APIC_API, args: [API.into(), 0, 0, 0], ..Default::default() };
    vm.enable_cap(&enable).context("enabling 32-bit APIC IDs (KVM_CAP_X2APIC_API)")?;
    Ok(DestinationIds::Extended)
}

/// An edge-triggered interrupt line.
pub enum Line {
    /// An irqfd of KVM's controller.
    Irqfd(EventFd),
    /// A pin of the VMM's IOAPIC.
    Ioapic(Arc<Ioapic>, u32),
}

impl vm_superio::Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        match self {
            Self::Irqfd(eventfd) => eventfd.write(1),
            Self::Ioapic(ioapic, pin) => ioapic.pulse(*pin).map_err(io::Error::other),
        }
    }
}
