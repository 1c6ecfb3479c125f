//! From options of the command line to functions on the guest's bus.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vm_msi::VmBudget;
use vm_msi::kvm::KvmRouter;

use super::device::{Device, Model};
use super::events::EventDevice;
use super::function::PciFunction;
use super::interrupts::{Interrupts, InterruptsError, Shape, Special, bar_slots};
use super::queues::Queues;
use super::timer::Timer;
use crate::cli::DeviceOption;
use crate::error::{Context, Result};
use crate::mediated::{MediatedSlots, Opener};
use crate::pci::Root;
use crate::vfio::HostDevice;

/// Device IDs: of those that Red Hat leaves for experiments.
const TIMER: u16 = 0x10f0;
const QUEUES: u16 = 0x10f1;

/// What a device needs of the VM.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// The bus that it comes to.
    pub root: &'a Root,
    /// Guest memory, where its slots may be.
    pub memory: &'a GuestMemoryMmap,
    /// The router of its interrupts.
    pub router: &'a Arc<KvmRouter>,
    /// Host vectors that all of the VM's devices may have.
    pub budget: &'a Arc<VmBudget>,
    /// And each device of the host's.
    pub device_vectors: Option<u32>,
}

/// Puts the devices on the bus, in this order.
///
/// # Errors
/// The host's, or the bus's that has no room; or a device of the host's has not what one of these needs.
pub fn attach(
    options: &[DeviceOption<HostDevice>],
    machine: Machine<'_>,
) -> Result<Vec<Arc<dyn EventDevice>>> {
    let mut opener = Opener::new(machine.budget, machine.device_vectors);
    options.iter().map(|option| attach_one(option, machine, &mut opener)).collect()
}

fn attach_one(
    option: &DeviceOption<HostDevice>,
    machine: Machine<'_>,
    opener: &mut Opener<'_>,
) -> Result<Arc<dyn EventDevice>> {
    let Machine { memory, router, .. } = machine;
    match option {
        DeviceOption::ImsTimer { slots } => {
            let timer = Timer::new().context("ims-timer: creating its clock")?;
            let shape = Shape { slots: *slots, memory_slots: None, special: Special::None };
            add(TIMER, "ims-timer", timer, Interrupts::new(shape, router.clone()), machine)
        }
        DeviceOption::ImsQueues { slots, memory_slots } => {
            let shape = Shape { slots: *slots, memory_slots: *memory_slots, special: Special::Msix };
            add(
                QUEUES,
                "ims-queues",
                Queues::new(memory.clone()),
                Interrupts::new(shape, router.clone()),
                machine,
            )
        }
        // To the guest it is the same device.
        DeviceOption::ImsMediated { host, slots } => {
            let name = "ims-mediated";
            let layout = bar_slots(*slots).context(name)?;
            let slots = MediatedSlots::new(layout, router.clone(), opener.device(host)?)?;
            let interrupts = Interrupts::with_bar_slots(Box::new(slots), None, Special::Msix, router.clone());
            add(QUEUES, name, Queues::new(memory.clone()), interrupts, machine)
        }
    }
}

fn add<M: Model>(
    id: u16,
    name: &str,
    model: M,
    interrupts: std::result::Result<Interrupts, InterruptsError>,
    machine: Machine<'_>,
) -> Result<Arc<dyn EventDevice>> {
    let context = |what: &str| format!("{name}: {what}");
    let interrupts = interrupts.context(context("giving it its interrupts"))?;
    let device = Arc::new(Device::new(model, interrupts));
    let function = PciFunction::new(id, Arc::clone(&device), machine.root);
    let function = function.context(context("giving its BARs addresses"))?;
    let place = machine.root.add(Arc::new(function)).context(context("adding it to the bus"))?;
    tracing::info!("{name} is at {place} in the guest");
    Ok(device)
}
