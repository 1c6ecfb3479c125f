//! From a device model to a function on the guest's bus.

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

/// What a device needs of the VM.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// The VM.
    pub vm: &'a Arc<VmFd>,
    /// The bus that it comes to.
    pub root: &'a Root,
    /// Guest memory, which it reaches by DMA.
    pub memory: &'a GuestMemoryMmap,
    /// The router of its interrupts.
    pub router: &'a Arc<KvmRouter>,
}

/// Puts a device on the bus, with a thread that serves it.
///
/// # Errors
/// The host's.
pub fn attach(device: Arc<dyn Device>, machine: Machine<'_>) -> Result<()> {
    let name = device.identity().name;
    let context = |what: &str| format!("virtio {name}: {what}");
    let doorbells = device.queues().iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<_>>();
    let layout = layout::msix(device.queues().len()).context(context("placing its MSI-X"))?;
    let msix = SoftwareMsix::software(layout, machine.router.clone());
    let doorbells = doorbells.context(context("creating its doorbells"))?;
    let transport = Arc::new(Transport::new(device, machine.memory.clone(), doorbells, msix));
    let worker = Worker::start(Arc::clone(&transport))?;
    let doorbells = Doorbells::in_kernel(Arc::clone(machine.vm));
    let function = PciFunction::new(transport, doorbells, Some(worker), machine.root);
    let function = Arc::new(function.context(context("giving its BAR an address"))?);
    let place = machine.root.add(function).context(context("adding it to the bus"))?;
    tracing::info!("virtio {name} is at {place} in the guest");
    Ok(())
}
