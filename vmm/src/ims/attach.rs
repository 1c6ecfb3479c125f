//! Creates the devices of `--device` and adds them to the guest's bus.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vm_msi::VmBudget;
use vm_msi::kvm::KvmRouter;

use super::device::{Device, Model};
use super::events::EventDevice;
use super::function::PciFunction;
use super::interrupts::{InterruptConfig, Interrupts, InterruptsError, MsixPresence, bar_slots};
use super::queues::Queues;
use super::timer::Timer;
use crate::cli::DeviceOption;
use crate::error::{Context, Result};
use crate::mediated::{MediatedSlots, Opener};
use crate::pci::Root;
use crate::vfio::HostDevice;

/// Device IDs from Red Hat's range for experiments.
const TIMER: u16 = 0x10f0;
const QUEUES: u16 = 0x10f1;

/// The parts of the VM that a device uses.
#[derive(Clone, Copy)]
pub struct VmResources<'a> {
    /// The bus.
    pub root: &'a Root,
    /// Guest memory, for slots in memory.
    pub memory: &'a GuestMemoryMmap,
    /// The router of its interrupts.
    pub router: &'a Arc<KvmRouter>,
    /// The budget of host vectors for all devices.
    pub budget: &'a Arc<VmBudget>,
    /// Maximum number of host vectors for each host device, if limited.
    pub device_vectors: Option<u32>,
}

/// Adds the devices to the bus, in this order.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host) if the host refuses a step, the bus is full, or a host device does not
/// fit.
pub fn attach(
    options: &[DeviceOption<HostDevice>],
    resources: VmResources<'_>,
) -> Result<Vec<Arc<dyn EventDevice>>> {
    let mut opener = Opener::new(resources.budget, resources.device_vectors);
    options.iter().map(|option| attach_one(option, resources, &mut opener)).collect()
}

fn attach_one(
    option: &DeviceOption<HostDevice>,
    resources: VmResources<'_>,
    opener: &mut Opener<'_>,
) -> Result<Arc<dyn EventDevice>> {
    let VmResources { memory, router, .. } = resources;
    match option {
        DeviceOption::ImsTimer { slots } => {
            let timer = Timer::new().context("ims-timer: creating its timer")?;
            let config = InterruptConfig { slots: *slots, memory_slots: None, msix: MsixPresence::Absent };
            add(TIMER, "ims-timer", timer, Interrupts::new(config, router.clone()), resources)
        }
        DeviceOption::ImsQueues { slots, memory_slots } => {
            let config =
                InterruptConfig { slots: *slots, memory_slots: *memory_slots, msix: MsixPresence::Present };
            add(
                QUEUES,
                "ims-queues",
                Queues::new(memory.clone()),
                Interrupts::new(config, router.clone()),
                resources,
            )
        }
        // The guest sees the same device as `ims-queues`.
        DeviceOption::ImsMediated { host, slots } => {
            let name = "ims-mediated";
            let layout = bar_slots(*slots).context(name)?;
            let slots = MediatedSlots::new(layout, router.clone(), opener.device(host)?)?;
            let interrupts =
                Interrupts::with_bar_slots(Box::new(slots), None, MsixPresence::Present, router.clone());
            add(QUEUES, name, Queues::new(memory.clone()), interrupts, resources)
        }
    }
}

fn add<M: Model>(
    id: u16,
    name: &str,
    model: M,
    interrupts: std::result::Result<Interrupts, InterruptsError>,
    resources: VmResources<'_>,
) -> Result<Arc<dyn EventDevice>> {
    let context = |what: &str| format!("{name}: {what}");
    let interrupts = interrupts.context(context("creating its interrupts"))?;
    let device = Arc::new(Device::new(model, interrupts));
    let function = PciFunction::new(id, Arc::clone(&device), resources.root);
    let function = function.context(context("assigning its BARs"))?;
    let place = resources.root.add(Arc::new(function)).context(context("adding it to the bus"))?;
    tracing::info!("{name} is at {place} in the guest");
    Ok(device)
}
