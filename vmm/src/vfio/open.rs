//! From a host device to a function on the guest's bus: open, reset, look, build.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use kvm_ioctls::VmFd;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_CONFIG_REGION_INDEX,
};
use vm_memory::GuestMemoryMmap;
use vm_msi::Budget;
use vm_msi::kvm::KvmRouter;

use super::container::Container;
use super::device::{Device, DeviceBar, reset_patiently};
use super::guest_config::{GuestConfig, HostReset};
use super::host::HostDevice;
use super::interrupts::{HostFunction, Interrupts};
use super::ioctl;
use super::mapping::BarMapping;
use super::region::Region;
use crate::error::{Doing, Error, Result};
use crate::memory::Slots;
use crate::pci::bar::BAR0;
use crate::pci::{BAR_COUNT, Bar, Bars, Function, Root, Space};

/// What a device needs of the VM.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// The VM.
    pub vm: &'a VmFd,
    /// The bus that it comes to.
    pub root: &'a Root,
    /// Guest memory, which it reaches by DMA.
    pub memory: &'a GuestMemoryMmap,
    /// Memory slots for its BARs.
    pub slots: &'a Arc<Slots>,
    /// The router of its interrupts.
    pub router: &'a Arc<KvmRouter>,
    /// Host vectors that all of the VM's devices may have.
    pub budget: &'a Arc<Budget>,
    /// And each of them.
    pub device_vectors: Option<u32>,
}

/// Opens the devices and puts them on the bus, in this order. Nothing is done where there are none.
///
/// # Errors
/// The host's. Devices that were opened already are given back.
pub fn attach(devices: &[HostDevice], machine: Machine<'_>) -> Result<Vec<Arc<Device>>> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let container = Container::open(devices, machine.vm)?;
    tracing::debug!("IOMMU groups are taken");
    container.map(machine.memory)?;
    tracing::debug!("devices have access to guest memory");
    let open = |device| open(device, &container, machine);
    let opened = devices.iter().map(open).collect::<Result<Vec<_>>>()?;
    for device in &opened {
        let function: Arc<dyn Function> = Arc::clone(device) as _;
        let place = machine.root.add(function).doing(format!("adding device {}", device.address()))?;
        tracing::info!("device {} is at {place} in the guest", device.address());
    }
    Ok(opened)
}

fn open(host: &HostDevice, container: &Arc<Container>, machine: Machine<'_>) -> Result<Arc<Device>> {
    let address = host.address;
    let doing = |what: &str| format!("device {address}: {what}");
    let file = Arc::new(container.device(host)?);
    let flags = ioctl::device_flags(&file).doing(doing("asking what it is"))?;
    if flags & VFIO_DEVICE_FLAGS_PCI == 0 {
        return Err(Error::host(doing("asking what it is"), "it is no PCI device"));
    }
    tracing::debug!("device {address} is open");
    let reset = first_reset(host, &file, flags);
    tracing::debug!("device {address} is reset");

    let region = |index| Region::new(&file, index).doing(doing("asking for its regions"));
    let host_config = region(VFIO_PCI_CONFIG_REGION_INDEX)?
        .ok_or_else(|| Error::host(doing("reading its configuration"), "it has none"))?;
    let mut registers = vec![0; usize::try_from(host_config.size()).unwrap_or(0).min(4096)];
    host_config.read(0, &mut registers);
    if registers.starts_with(&[0xff, 0xff]) {
        return Err(Error::host(
            doing("reading its configuration"),
            "it does not answer: it has no power, or is gone",
        ));
    }
    let mut regions = [const { None }; BAR_COUNT];
    for (slot, index) in regions.iter_mut().zip(0..) {
        *slot = region(index)?;
    }

    let bars = Bars::new(std::array::from_fn(|index| {
        let register = registers.get(usize::from(BAR0).saturating_add(index.saturating_mul(4))..)?;
        Bar::new(u32::from_le_bytes(*register.first_chunk()?), regions.get(index)?.as_ref()?.size())
    }));
    let found =
        HostFunction { address, file: &file, config: &host_config, registers: &registers, regions: &regions };
    let budget = Budget::of_device(machine.budget, 0, machine.device_vectors);
    let interrupts = Interrupts::find(found, machine.router, &budget.doing(doing("giving it a budget"))?);
    let mut config = GuestConfig::new(&registers, bars, reset, interrupts.emulated());
    config.assign(machine.root).doing(doing("giving its BARs addresses"))?;
    let bars = device_bars(regions, bars, &interrupts, machine.slots).doing(doing("mapping its BARs"))?;
    let device = Device {
        address,
        reset,
        config: Mutex::new(config),
        host_config,
        interrupts,
        bars,
        file,
        _container: Some(Arc::clone(container)),
        resets: AtomicU64::new(0),
        released: AtomicBool::new(false),
    };
    device.start();
    Ok(Arc::new(device))
}

/// Brings the device into a known state, and finds out whether that works.
fn first_reset(host: &HostDevice, file: &File, flags: u32) -> HostReset {
    if flags & VFIO_DEVICE_FLAGS_RESET == 0 {
        tracing::warn!(
            "device {} cannot be reset by the host: it starts in the state that it is in",
            host.address
        );
        return HostReset::Unsupported;
    }
    match reset_patiently(file) {
        Ok(()) => HostReset::Supported,
        Err(error) => {
            tracing::warn!(
                "device {} cannot be reset, it starts in the state that it is in: {error}",
                host.address
            );
            HostReset::Unsupported
        }
    }
}

/// The regions with what of them is mapped into the guest: all but the pages of the MSI-X table and pending bits.
fn device_bars(
    regions: [Option<Region>; BAR_COUNT],
    bars: Bars,
    interrupts: &Interrupts,
    slots: &Arc<Slots>,
) -> io::Result<[Option<DeviceBar>; BAR_COUNT]> {
    let mut device_bars = [const { None }; BAR_COUNT];
    let mut memory =
        bars.iter().filter(|(_, bar)| bar.space() == Space::Memory).map(|(index, _)| index).peekable();
    for (index, (device_bar, region)) in device_bars.iter_mut().zip(regions).enumerate() {
        let Some(region) = region else {
            continue;
        };
        let mapping = match memory.next_if_eq(&index) {
            Some(_) => Some(BarMapping::new(&region, &interrupts.trapped(index), slots)?),
            None => None,
        };
        *device_bar = Some(DeviceBar { region, mapping });
    }
    Ok(device_bars)
}
