//! The virtual machine: construction and run.
//!
//! [`Vm::new`] builds everything up to the first instruction, on the main thread. [`Vm::run`] starts the vCPUs and
//! serves events until the exit event is signalled. It then stops the vCPUs and the side loops, and releases the
//! devices last.

use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex};

use vm_device::DevicePio;
use vm_device::bus::{MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};
use vm_msi::VmBudget;
use vm_msi::kvm::KvmRouter;

use crate::boot;
use crate::boot::acpi::Machine;
use crate::boot::loader::Loading;
use crate::cli::SerialTarget;
use crate::config::Config;
use crate::devices::debug_exit::DebugExit;
use crate::devices::ioapic::Ioapic;
use crate::devices::power::{AcpiPower, ConfigPorts, I8042};
use crate::devices::pvpanic::Pvpanic;
use crate::error::{Context, Result};
use crate::events::{EventLoop, SideLoop, Signals};
use crate::interrupts::Controllers;
use crate::kvm;
use crate::layout;
use crate::memory::{GuestMemory, Slots};
use crate::outcome::{ExitEvent, Outcome};
use crate::pci::{Root, Windows};
use crate::report::{ReportTarget, Reporter};
use crate::sandbox::{self, Inherited, Kind};
use crate::serial::input::{Input, Source};
use crate::serial::terminal::RawMode;
use crate::serial::{Flusher, Port};
use crate::vcpu::cpuid::Cpuid;
use crate::vcpu::thread::Threads;
use crate::vcpu::{Shared, Vcpu};
use crate::virtio::console::size::{Size, SizeWatcher};
use crate::virtio::console::{Console, Ends};
use crate::virtio::net::Net;
use crate::{ims, vfio, virtio};

/// A machine that is ready to start.
pub struct Vm {
    vcpus: Vec<Vcpu>,
    events: EventLoop,
    side_loops: Vec<SideLoop>,
    exit_event: Arc<ExitEvent>,
    root: Arc<Root>,
    router: Arc<KvmRouter>,
    budget: Arc<VmBudget>,
    serial: Arc<Port>,
    serial_target: SerialTarget,
    has_console: bool,
    /// Owns the RAM that vCPUs and devices use.
    _memory: GuestMemory,
}

impl Vm {
    /// Builds the machine.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host), or [`Error::Input`](crate::error::Error::Input) if the kernel does
    /// not fit.
    pub fn new(mut config: Config) -> Result<Self> {
        let kvm = kvm::open(config.cpus)?;
        let vm = Arc::new(kvm.create_vm().context("creating a VM")?);
        let slots = Slots::new(Arc::clone(&vm));
        let memory = GuestMemory::new(config.memory, &slots)?;
        let loading = Loading::start(memory.memory(), config.kernel, config.unpack, config.initrd)?;
        let exit_event = ExitEvent::new()?;
        let mut events = EventLoop::new(Arc::clone(&exit_event))?;
        let mut side_loops = Vec::new();
        let interrupts = Controllers::new(&vm, config.irqchip, config.cpus)?;
        let cpuid = Cpuid::supported(&kvm, interrupts.router().destination_ids())?;
        let pci_mmio64 = layout::pci_mmio64(memory.end(), cpuid.physical_bits());
        if pci_mmio64.is_none() {
            tracing::warn!("no room for a 64-bit PCI window above RAM; large BARs cannot be placed");
        }
        let root = Root::new(Windows {
            mmio32: layout::PCI_MMIO32,
            mmio64: pci_mmio64.clone().unwrap_or_default(),
            pio: layout::PCI_PIO,
        });
        let budget = VmBudget::new(config.host_vectors);
        let resources = vfio::VmResources {
            vm: &vm,
            root: &root,
            memory: memory.memory(),
            interrupts: &interrupts,
            slots: &slots,
            router: interrupts.router(),
            budget: &budget,
            device_vectors: config.device_vectors,
        };
        let devices = vfio::attach(&config.vfio, resources)?;
        if !devices.is_empty() {
            events.add(Arc::new(Mutex::new(vfio::DeviceEvents::new(&devices)?)));
            let maintenance = Arc::new(Mutex::new(vfio::Maintenance::new(&devices)?));
            side_loops.push(SideLoop::start("host vectors", maintenance, &exit_event)?);
        }
        let resources = virtio::VmResources {
            vm: &vm,
            root: &root,
            memory: memory.memory(),
            router: interrupts.router(),
            exit_event: &exit_event,
        };
        let mut models = Vec::new();
        for disk in std::mem::take(&mut config.disks) {
            models.push((virtio::Disk::model(disk.image, disk.name, disk.queues)?, disk.place));
        }
        for (option, tap) in std::mem::take(&mut config.nets) {
            let model = Net::model(Arc::new(tap), option.mac, option.datapath, option.id)?;
            models.push((model, option.address));
        }
        if let Some((option, end)) = config.vsock.take() {
            models.push((virtio::Vsock::model(option.cid, end, option.id)?, option.address));
        }
        // Those with a chosen address come first: the others take free ones.
        models.sort_by_key(|(_, place)| place.is_none());
        for (model, place) in models {
            virtio::attach(model, place, resources)?;
        }
        if config.console {
            let (model, watcher) = console(&exit_event)?;
            virtio::attach(model, None, resources)?;
            events.add(Arc::new(Mutex::new(watcher)));
        }
        if config.rng {
            virtio::attach(virtio::Rng::model()?, None, resources)?;
        }
        let resources = ims::VmResources {
            root: &root,
            memory: memory.memory(),
            router: interrupts.router(),
            budget: &budget,
            device_vectors: config.device_vectors,
        };
        let devices = ims::attach(&config.devices, resources)?;
        if !devices.is_empty() {
            let maintenance = Arc::new(Mutex::new(ims::Maintenance::new(devices.clone())?));
            side_loops.push(SideLoop::start("interrupt stores", maintenance, &exit_event)?);
            events.add(Arc::new(Mutex::new(ims::DeviceEvents::new(devices)?)));
        }
        let serial = Port::new(&config.serial, interrupts.line(layout::COM1_GSI)?, Arc::clone(&exit_event))?;
        let buses = buses(
            &root,
            pci_mmio64.as_ref(),
            &serial,
            &exit_event,
            interrupts.ioapic(),
            config.debug_exit.as_ref(),
        )?;

        tracing::debug!("machine built");
        let entry = loading.finish()?;
        tracing::debug!("kernel and initrd loaded");
        boot::write_reset_vector(memory.memory())?;
        let rsdp = boot::acpi::write(memory.memory(), &Machine { cpus: config.cpus, pci_mmio64 })?;
        boot::mp_table::write(memory.memory(), config.cpus)?;
        boot::write_parameters(memory.memory(), &entry, &config.cmdline, rsdp)?;

        let shared = Shared {
            buses: Arc::new(buses),
            ioapic: interrupts.ioapic().cloned(),
            exit_event: Arc::clone(&exit_event),
        };
        let vcpus = (0..config.cpus)
            .map(|index| Vcpu::new(&vm, index, &cpuid.for_vcpu(index, config.cpus)?, shared.clone()));
        let vcpus = vcpus.collect::<Result<Vec<_>>>()?;
        if let Some(first) = vcpus.first() {
            first.boot(memory.memory(), &entry)?;
        }
        Ok(Self {
            vcpus,
            events,
            side_loops,
            exit_event,
            root,
            router: Arc::clone(interrupts.router()),
            budget,
            serial,
            serial_target: config.serial,
            has_console: config.console,
            _memory: memory,
        })
    }

    /// Runs the guest until it ends. With `report`, writes a report at the end and on SIGUSR1. The
    /// calling thread is confined, if the [`sandbox`] is on, and stays so.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host).
    pub fn run(mut self, report: Option<ReportTarget>, inherited: Inherited) -> Result<Outcome> {
        let reporter = report.map(|target| Reporter {
            target,
            router: Arc::clone(&self.router),
            budget: Arc::clone(&self.budget),
            root: Arc::clone(&self.root),
        });
        let on_signal = reporter.clone();
        let signals = Signals::handle(Arc::clone(&self.exit_event), move || match &on_signal {
            Some(reporter) => reporter.write(),
            None => tracing::warn!("SIGUSR1: no --report to write"),
        })?;
        self.events.add(Arc::new(Mutex::new(signals)));

        self.events.add(Arc::new(Mutex::new(Flusher(Arc::clone(&self.serial)))));
        let has_serial = self.serial_target == SerialTarget::Stdio;
        let terminal = if has_serial || self.has_console {
            RawMode::enter().context("putting the terminal in raw mode")?
        } else {
            None
        };
        if has_serial {
            let source = Source::of_stdin();
            let input = Input::new(Arc::clone(&self.serial), source, Arc::clone(&self.exit_event));
            self.events.add(Arc::new(Mutex::new(input)));
        }
        let threads = Threads::start(self.vcpus, || {
            inherited.close();
            sandbox::enter(Kind::Main);
        })?;
        tracing::debug!("the guest runs");
        let outcome = self.events.run();
        drop(threads);
        drop(self.side_loops);
        self.serial.close();
        drop(terminal);
        if let Some(reporter) = reporter {
            reporter.write();
        }
        self.root.release();
        outcome
    }
}

/// A virtio console on standard input and output, and what follows the terminal's size.
fn console(exit_event: &Arc<ExitEvent>) -> Result<(virtio::Model, SizeWatcher)> {
    let duplicate = "duplicating standard input and output";
    let ends = Ends {
        input: rustix::io::dup(rustix::stdio::stdin()).context(duplicate)?,
        output: rustix::io::dup(rustix::stdio::stdout()).context(duplicate)?,
        source: Source::of_stdin(),
    };
    let (model, config) = Console::model(ends, Size::of_stdout(), Arc::clone(exit_event));
    Ok((model, SizeWatcher::new(config)?))
}

/// Registers every device on the buses. vCPUs use the buses without a lock, so they do not change afterwards.
pub(crate) fn buses(
    root: &Arc<Root>,
    pci_mmio64: Option<&Range<u64>>,
    serial: &Arc<Port>,
    exit_event: &Arc<ExitEvent>,
    ioapic: Option<&Arc<Ioapic>>,
    debug_exit: Option<&Range<u16>>,
) -> Result<IoManager> {
    let mut buses = IoManager::new();
    let mut ports = |ports, device| add_ports(&mut buses, ports, device);
    let config_ports = ConfigPorts { pci: root.config_ports(), exit_event: Arc::clone(exit_event) };
    ports(inclusive(&layout::COM1_PORTS), Arc::clone(serial) as _)?;
    ports(inclusive(&layout::I8042_PORTS), Arc::new(I8042(Arc::clone(exit_event))))?;
    ports(inclusive(&layout::ACPI_POWER_PORTS), Arc::new(AcpiPower(Arc::clone(exit_event))))?;
    ports(layout::PVPANIC_PORT..=layout::PVPANIC_PORT, Arc::new(Pvpanic(Arc::clone(exit_event))))?;
    ports(inclusive(&layout::PCI_CONFIG_PORTS), Arc::new(config_ports))?;
    ports(layout::PCI_PIO, root.pio())?;
    if let Some(range) = debug_exit {
        ports(inclusive(range), Arc::new(DebugExit(Arc::clone(exit_event))))?;
    }

    let mut memory = |range: &Range<u64>, device| {
        let context = format!("placing a device at address {:#x}", range.start);
        let range = MmioRange::new(MmioAddress(range.start), range.end.saturating_sub(range.start))
            .context(&context)?;
        buses.register_mmio(range, device).context(context)
    };
    memory(&layout::PCI_ECAM, root.ecam())?;
    memory(&layout::PCI_MMIO32, root.mmio())?;
    if let Some(window) = pci_mmio64 {
        memory(window, root.mmio())?;
    }
    if let Some(ioapic) = ioapic {
        memory(&(layout::IOAPIC..layout::IOAPIC + layout::IOAPIC_SIZE), Arc::clone(ioapic) as _)?;
    }
    Ok(buses)
}

fn add_ports(
    buses: &mut IoManager,
    ports: RangeInclusive<u16>,
    device: Arc<dyn DevicePio + Send + Sync>,
) -> Result<()> {
    let context = format!("placing a device at port {:#x}", ports.start());
    let length = u16::try_from(ports.len()).context(&context)?;
    let range = PioRange::new(PioAddress(*ports.start()), length).context(&context)?;
    buses.register_pio(range, device).context(context)
}

fn inclusive(ports: &Range<u16>) -> RangeInclusive<u16> {
    ports.start..=ports.end.saturating_sub(1)
}
