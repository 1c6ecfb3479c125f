//! Creates a virtio device and adds it to the guest's bus.

use std::sync::Arc;

use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryMmap;
use vm_msi::kvm::KvmRouter;

use super::device::Model;
use super::interrupts::Interrupts;
use super::lane_loop::LaneLoop;
use super::pci::{Doorbells, PciFunction, layout};
use super::transport::Transport;
use super::worker::Workers;
use crate::error::{Context, Result};
use crate::outcome::ExitEvent;
use crate::pci::{DeviceFunction, Root};

/// The parts of the VM that a device uses.
#[derive(Clone, Copy)]
pub struct VmResources<'a> {
    /// The VM.
    pub vm: &'a Arc<VmFd>,
    /// The bus.
    pub root: &'a Root,
    /// Guest memory, the target of its DMA.
    pub memory: &'a GuestMemoryMmap,
    /// The router of its interrupts.
    pub router: &'a Arc<KvmRouter>,
    /// Ends the run if a thread of the device fails.
    pub exit_event: &'a Arc<ExitEvent>,
}

/// Adds a device to the bus, at `place` if there is one, and starts the threads that serve it.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host), or an error of a handler.
pub fn attach(model: Model, place: Option<DeviceFunction>, resources: VmResources<'_>) -> Result<()> {
    let Model { device, lanes } = model;
    let name = device.identity().name;
    let context = |what: &str| format!("virtio {name}: {what}");
    let layout = layout::msix(device.queues().len()).context(context("placing its MSI-X"))?;
    let interrupts = Interrupts::new(device.interrupt_source(), layout, resources.router.clone());
    let interrupts = interrupts.context(context("creating its interrupts"))?;
    let transport = Transport::new(device, lanes.len(), resources.memory.clone(), interrupts);
    let transport = transport.context(context("creating its doorbells"))?;
    let lanes = lanes.into_iter().enumerate();
    let lanes = lanes.map(|(number, lane)| LaneLoop::new(Arc::clone(&transport), number, lane));
    let lanes = lanes.collect::<Result<_>>()?;
    let workers = Workers::start(Arc::clone(&transport), lanes, resources.exit_event)?;
    let doorbells = Doorbells::in_kernel(Arc::clone(resources.vm));
    let function = PciFunction::new(transport, doorbells, workers, resources.root);
    let function = Arc::new(function.context(context("assigning its BAR"))?);
    let added = context("adding it to the bus");
    let place = match place {
        Some(place) => resources.root.add_at(place, function).context(added).map(|()| place)?,
        None => resources.root.add(function).context(added)?,
    };
    tracing::info!("virtio {name} is at {place} in the guest");
    Ok(())
}
