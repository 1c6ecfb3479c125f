//! Opens host devices and adds them to the guest's bus.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryMmap;
use vm_msi::VmBudget;
use vm_msi::kvm::KvmRouter;

use super::container::Container;
use super::device::{Device, DeviceBar, DeviceRom};
use super::device_info::OpenedDevice;
use super::guest_config::GuestConfig;
use super::interrupts::Interrupts;
use super::intx;
use super::mapping::BarMapping;
use super::peers::{PeerSpace, PeerToPeer};
use super::quirks::Identity;
use super::region::Region;
use super::rom::Rom;
use super::selection::Selected;
use crate::error::{Context, Result};
use crate::interrupts::Controllers;
use crate::memory::Slots;
use crate::pci::bar::BAR0;
use crate::pci::{BAR_COUNT, Bar, Bars, Function, InterruptPin, Root, Space};

/// The parts of the VM that a device uses.
#[derive(Clone, Copy)]
pub struct VmResources<'a> {
    /// The VM.
    pub vm: &'a VmFd,
    /// The bus.
    pub root: &'a Root,
    /// Guest memory, the target of its DMA.
    pub memory: &'a GuestMemoryMmap,
    /// Its interrupt controllers, for INTx.
    pub interrupts: &'a Controllers,
    /// Memory slots for its BARs.
    pub slots: &'a Arc<Slots>,
    /// The router of its interrupts.
    pub router: &'a Arc<KvmRouter>,
    /// The budget of host vectors for all devices.
    pub budget: &'a Arc<VmBudget>,
    /// Maximum number of host vectors for each device, if limited.
    pub device_vectors: Option<u32>,
}

/// Opens the devices and adds them to the bus, at their addresses. Does nothing without devices.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host). The devices opened so far are released.
pub fn attach(devices: &[Selected], resources: VmResources<'_>) -> Result<Vec<Arc<Device>>> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let hosts: Vec<_> = devices.iter().map(|device| device.host.clone()).collect();
    let container = Container::open(&hosts, resources.vm)?;
    tracing::debug!("IOMMU groups are in the container");
    container.map(resources.memory)?;
    tracing::debug!("devices have access to guest memory");
    // A single device has no peers.
    let has_peers = devices.len() > 1;
    let open = |device: &Selected| {
        let peers = (has_peers && device.peer_to_peer == PeerToPeer::On).then(|| Arc::clone(&container) as _);
        open(device, &container, peers, resources)
    };
    let opened = devices.iter().map(open).collect::<Result<Vec<_>>>()?;
    for ((device, pin), Selected { place, .. }) in opened.iter().zip(devices) {
        let function: Arc<dyn Function> = Arc::clone(device) as _;
        let added = resources.root.add_at(*place, function);
        added.context(format!("adding device {}", device.address()))?;
        if let Some(pin) = pin {
            device.connect_intx(*pin, *place, resources.interrupts)?;
        }
        tracing::info!("device {} is at {place} in the guest", device.address());
    }
    Ok(opened.into_iter().map(|(device, _)| device).collect())
}

/// Opens a device. Its INTx is connected when the device is on the bus.
fn open(
    selected: &Selected,
    container: &Arc<Container>,
    peers: Option<Arc<dyn PeerSpace>>,
    resources: VmResources<'_>,
) -> Result<(Arc<Device>, Option<InterruptPin>)> {
    let address = selected.host.address;
    let context = |what: &str| format!("device {address}: {what}");
    let opened = OpenedDevice::open(&selected.host, container)?;
    let OpenedDevice { registers, regions, .. } = &opened;
    for warning in Identity::of(registers).into_iter().flat_map(Identity::warnings) {
        tracing::warn!("device {address}: {warning}");
    }
    let bars = Bars::new(std::array::from_fn(|index| {
        let register = registers.get(usize::from(BAR0).saturating_add(index.saturating_mul(4))..)?;
        Bar::new(u32::from_le_bytes(*register.first_chunk()?), regions.get(index)?.as_ref()?.size())
    }));
    let rom = Rom::new(&selected.rom, address, &opened.file, registers);
    let rom = rom.context(context("copying its expansion ROM"))?;
    let bars = rom.as_ref().map_or(bars, |rom| bars.with_rom(rom.size()));
    let budget = resources.budget.admit(0, resources.device_vectors);
    let mut interrupts = Interrupts::probe(
        opened.function(),
        resources.router,
        &budget.context(context("reserving its host vectors"))?,
    );
    if let Err(why) = interrupts.make_table_pages() {
        tracing::warn!("device {address}: its MSI-X table is read by exits, which is slow: {why}");
    }
    let mut config = GuestConfig::new(registers, bars, opened.reset, interrupts.emulated());
    config.assign(resources.root).context(context("assigning its BARs"))?;
    let pin = intx::pin(&opened.file, registers);
    if let Some(pin) = pin {
        config.show_interrupt_pin(pin);
    }
    let bars = device_bars(opened.regions, bars, &interrupts, resources.slots, peers.as_ref())
        .context(context("mapping its BARs"))?;
    let device = Device {
        address,
        id: selected.id.clone(),
        reset: opened.reset,
        config: Mutex::new(config),
        host_config: opened.config,
        interrupts,
        bars,
        rom: rom.map(|rom| {
            let mapping = Some(BarMapping::read_only(rom.memory(), resources.slots));
            DeviceRom { rom, mapping }
        }),
        file: opened.file,
        _container: Some(Arc::clone(container)),
        resets: AtomicU64::new(0),
        released: AtomicBool::new(false),
    };
    device.start();
    Ok((Arc::new(device), pin))
}

/// The BARs with their mappings: all pages but those of the MSI-X table and PBA. Whole table pages are mapped
/// read-only.
fn device_bars(
    regions: [Option<Region>; BAR_COUNT],
    bars: Bars,
    interrupts: &Interrupts,
    slots: &Arc<Slots>,
    peers: Option<&Arc<dyn PeerSpace>>,
) -> io::Result<[Option<DeviceBar>; BAR_COUNT]> {
    let mut device_bars = [const { None }; BAR_COUNT];
    let mut memory =
        bars.iter().filter(|(_, bar)| bar.space() == Space::Memory).map(|(index, _)| index).peekable();
    for (index, (device_bar, region)) in device_bars.iter_mut().zip(regions).enumerate() {
        let Some(region) = region else {
            continue;
        };
        let mapping = match memory.next_if_eq(&index) {
            Some(_) => {
                let mut mapping =
                    BarMapping::new(&region, &interrupts.trapped(index), slots, peers.cloned())?;
                if let Some((bytes, memory)) = interrupts.readable(index) {
                    mapping.add_read_only(bytes, memory);
                }
                Some(mapping)
            }
            None => None,
        };
        *device_bar = Some(DeviceBar::new(region, mapping));
    }
    Ok(device_bars)
}
