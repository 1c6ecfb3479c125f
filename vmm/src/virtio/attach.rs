//! Creates a virtio device and adds it to the guest's bus.

use std::io;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryMmap;
use vm_msi::SoftwareMsix;
use vm_msi::kvm::KvmRouter;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::Device;
use super::pci::{Doorbells, PciFunction, layout};
use super::transport::Transport;
use super::worker::Worker;
use crate::error::{Context, Result};
use crate::pci::Root;

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
}

/// Adds a device to the bus and starts the thread that serves it.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host).
pub fn attach(device: Arc<dyn Device>, resources: VmResources<'_>) -> Result<()> {
    let name = device.identity().name;
    let context = |what: &str| format!("virtio {name}: {what}");
    let doorbells = device.queues().iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<_>>();
    let layout = layout::msix(device.queues().len()).context(context("placing its MSI-X"))?;
    let msix = SoftwareMsix::software(layout, resources.router.clone());
    let doorbells = doorbells.context(context("creating its doorbells"))?;
    let transport = Arc::new(Transport::new(device, resources.memory.clone(), doorbells, msix));
    let worker = Worker::start(Arc::clone(&transport))?;
    let doorbells = Doorbells::in_kernel(Arc::clone(resources.vm));
    let function = PciFunction::new(transport, doorbells, Some(worker), resources.root);
    let function = Arc::new(function.context(context("assigning its BAR"))?);
    let place = resources.root.add(function).context(context("adding it to the bus"))?;
    tracing::info!("virtio {name} is at {place} in the guest");
    Ok(())
}
