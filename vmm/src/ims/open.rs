//! From an option of the command line to a function on the guest's bus.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vm_msi::kvm::KvmRouter;

use super::device::{Device, Model};
use super::events::Attended;
use super::function::PciFunction;
use super::interrupts::{Interrupts, Shape, Special};
use super::queues::Queues;
use super::timer::Timer;
use crate::cli::DeviceOption;
use crate::error::{Doing, Result};
use crate::pci::Root;

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
}

/// Puts a device on the bus.
///
/// # Errors
/// The host's, or the bus's that has no room.
pub fn attach(option: &DeviceOption, machine: Machine<'_>) -> Result<Arc<dyn Attended>> {
    match *option {
        DeviceOption::ImsTimer { slots } => {
            let timer = Timer::new().doing("ims-timer: creating its clock")?;
            add(TIMER, timer, Shape { slots, memory_slots: None, special: Special::None }, machine)
        }
        DeviceOption::ImsQueues { slots, memory_slots } => {
            let queues = Queues::new(machine.memory.clone());
            add(QUEUES, queues, Shape { slots, memory_slots, special: Special::Msix }, machine)
        }
    }
}

fn add<M: Model>(id: u16, model: M, shape: Shape, machine: Machine<'_>) -> Result<Arc<dyn Attended>> {
    let doing = |what: &str| format!("ims-{}: {what}", M::NAME);
    let interrupts = Interrupts::new(shape, machine.router).doing(doing("giving it its interrupts"))?;
    let device = Arc::new(Device::new(model, interrupts));
    let function = PciFunction::new(id, Arc::clone(&device), machine.root);
    let function = function.doing(doing("giving its BARs addresses"))?;
    let place = machine.root.add(Arc::new(function)).doing(doing("adding it to the bus"))?;
    tracing::info!("ims-{} is at {place} in the guest", M::NAME);
    Ok(device)
}
