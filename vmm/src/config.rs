//! The validated configuration of a run.
//!
//! Input errors are found here, before KVM or a device is opened. Each message names the argument and the remedy.

mod boot;

use std::fmt;
use std::ops::Range;

pub use boot::Initrd;

use self::boot::Boot;
use crate::boot::image::Image;
use crate::cli::{
    Args, DeviceOption, DiskOption, IrqChip, MemorySize, NetOption, PortNumber, SerialTarget, Unpack,
    VsockOption,
};
use crate::error::{Error, Result};
use crate::layout;
use crate::pci::DeviceFunction;
use crate::tap::Tap;
use crate::vfio::{self, HostDevice, Selected, Sysfs};
use crate::virtio::net::{Datapath, vhost};
use crate::virtio::vsock::host::HostSocket;
use crate::virtio::vsock::{self, HostEnd};
use crate::virtio::{self, DiskImage};

/// Minimum guest memory: the boot structures and a kernel's header need the first MiB.
const MIN_MEMORY: u64 = 8 * layout::MIB;

/// A validated configuration.
#[derive(Debug)]
pub struct Config {
    /// The kernel.
    pub kernel: Image,
    /// The initial RAM disk, if any.
    pub initrd: Option<Initrd>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Number of CPUs, 1 to 1024.
    pub cpus: u16,
    /// Guest memory in bytes, a multiple of the page size.
    pub memory: u64,
    /// Devices to pass through.
    pub vfio: Vec<Selected>,
    /// Maximum number of host vectors for all passed-through and mediated devices, if limited.
    pub host_vectors: Option<u32>,
    /// Maximum number of host vectors for each of them, if limited.
    pub device_vectors: Option<u32>,
    /// Whether the guest has an entropy device.
    pub rng: bool,
    /// Disks.
    pub disks: Vec<DiskConfig>,
    /// Network devices, with their open taps.
    pub nets: Vec<(NetOption, Tap)>,
    /// The socket device, with the host's end.
    pub vsock: Option<(VsockOption, HostEnd)>,
    /// Devices with an interrupt message store.
    pub devices: Vec<DeviceOption<HostDevice>>,
    /// The connection of the serial port.
    pub serial: SerialTarget,
    /// Whether the guest has a virtio console on the terminal.
    pub console: bool,
    /// Where the interrupt controllers are emulated.
    pub irqchip: IrqChip,
    /// Where the kernel is unpacked.
    pub unpack: Unpack,
    /// Ports of the debug-exit device, if any.
    pub debug_exit: Option<Range<u16>>,
}

/// A disk.
#[derive(Debug)]
pub struct DiskConfig {
    /// The image, open and locked.
    pub image: DiskImage,
    /// Its name: its serial number in the guest.
    pub name: String,
    /// Number of queues.
    pub queues: u16,
    /// Its address in the guest, if a person has chosen one.
    pub place: Option<DeviceFunction>,
}

impl Config {
    /// Validates the arguments against the files and the host.
    ///
    /// # Errors
    /// An [`Error::Input`] that names the argument.
    pub fn check(args: &Args) -> Result<Self> {
        let memory = check_memory(args.memory)?;
        let disks = open_disks(&args.disk)?;
        let Boot { kernel, initrd, cmdline } = Boot::open(args, &disks, memory)?;
        let sysfs = Sysfs::default();
        let disk_places = args.disk.iter().filter_map(|disk| Some((disk_argument(disk), disk.address?)));
        let net_places = args.net.iter().filter_map(|net| Some((net_argument(net), net.address?)));
        let vsock_place = args.vsock.iter().filter_map(|vsock| Some((vsock_argument(vsock), vsock.address?)));
        let chosen: Vec<_> = disk_places.chain(net_places).chain(vsock_place).collect();
        let places: Vec<_> = chosen.iter().map(|(_, place)| *place).collect();
        let vfio = vfio::select(&sysfs, &args.vfio, &places)?;
        let places: Vec<_> = vfio.iter().map(|selected| selected.place).collect();
        virtio::placement::check(&chosen, &places)?;
        let hosts: Vec<_> = vfio.iter().map(|selected| selected.host.clone()).collect();
        let devices = args.device.iter();
        let devices = devices.map(|device| device.resolve(|address| sysfs.select_mediated(address, &hosts)));
        Ok(Self {
            devices: devices.collect::<Result<_>>()?,
            vfio,
            kernel,
            initrd,
            cmdline,
            cpus: args.cpus,
            memory,
            host_vectors: args.host_vectors,
            device_vectors: args.device_vectors,
            rng: args.rng,
            disks,
            nets: args.net.iter().map(open_net).collect::<Result<_>>()?,
            vsock: args.vsock.as_ref().map(open_vsock).transpose()?,
            serial: serial_target(args)?,
            console: args.console,
            irqchip: args.irqchip,
            unpack: args.unpack,
            debug_exit: args.debug_exit.map(check_debug_exit).transpose()?,
        })
    }
}

/// The machine in one line.
impl fmt::Display for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus = if self.cpus == 1 { "CPU" } else { "CPUs" };
        write!(out, "{} {cpus}, {} MiB", self.cpus, self.memory / layout::MIB)?;
        match self.vfio.len() {
            0 => {}
            1 => out.write_str(", 1 passed-through device")?,
            count => write!(out, ", {count} passed-through devices")?,
        }
        for (count, what) in [(self.disks.len(), "disk"), (self.nets.len(), "network device")] {
            match count {
                0 => {}
                1 => write!(out, ", 1 {what}")?,
                count => write!(out, ", {count} {what}s")?,
            }
        }
        write!(out, ", {}", self.kernel.name())
    }
}

fn serial_target(args: &Args) -> Result<SerialTarget> {
    match (&args.serial, args.console) {
        (Some(SerialTarget::Stdio), true) => {
            let problem = "--serial stdio has the terminal; give --serial off or --serial file=PATH";
            Err(Error::input("--console", problem))
        }
        (Some(target), _) => Ok(target.clone()),
        (None, true) => Ok(SerialTarget::Off),
        (None, false) => Ok(SerialTarget::Stdio),
    }
}

fn disk_argument(disk: &DiskOption) -> String {
    format!("--disk path={}", disk.path.display())
}

fn open_disks(options: &[DiskOption]) -> Result<Vec<DiskConfig>> {
    let mut disks: Vec<DiskConfig> = Vec::new();
    for (index, option) in options.iter().enumerate() {
        let input = |problem: String| Error::input(disk_argument(option), problem);
        let name = option.id.clone().unwrap_or_else(|| format!("disk{index}"));
        if let Some(other) = disks.iter().find(|disk| disk.name == name) {
            let other = other.image.path().display();
            return Err(input(format!("id={name} is the name of {other}, too; choose another")));
        }
        let image = DiskImage::open(&option.path, option.access).map_err(input)?;
        disks.push(DiskConfig { image, name, queues: option.queues, place: option.address });
    }
    Ok(disks)
}

fn net_argument(net: &NetOption) -> String {
    format!("--net tap={}", net.tap)
}

fn open_net(option: &NetOption) -> Result<(NetOption, Tap)> {
    if option.datapath == Datapath::Vhost {
        vhost::check().map_err(|problem| Error::input(net_argument(option), problem))?;
    }
    Ok((option.clone(), Tap::open(&option.tap, option.queues)?))
}

fn vsock_argument(vsock: &VsockOption) -> String {
    match &vsock.socket {
        Some(socket) => format!("--vsock socket={}", socket.display()),
        None => "--vsock vhost=on".to_owned(),
    }
}

fn open_vsock(option: &VsockOption) -> Result<(VsockOption, HostEnd)> {
    let end = match &option.socket {
        Some(socket) => HostSocket::bind(socket).map(HostEnd::Unix),
        None => vsock::vhost::check().map(|()| HostEnd::Vhost),
    };
    let end = end.map_err(|problem| Error::input(vsock_argument(option), problem))?;
    Ok((option.clone(), end))
}

fn size_argument(bytes: u64) -> String {
    let unit =
        [(layout::GIB, 'G'), (layout::MIB, 'M')].into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    let (unit, letter) = unit.unwrap_or((layout::KIB, 'K'));
    format!("--memory {}{letter}", bytes / unit)
}

fn check_memory(size: MemorySize) -> Result<u64> {
    let MemorySize(bytes) = size;
    if bytes < MIN_MEMORY {
        return Err(Error::input(
            size_argument(bytes),
            format!("a kernel needs {}M at least", MIN_MEMORY / layout::MIB),
        ));
    }
    if !bytes.is_multiple_of(4 * layout::KIB) {
        return Err(Error::input(size_argument(bytes), "not a multiple of 4K"));
    }
    let machine = rustix::system::sysinfo();
    let total = machine.totalram.saturating_mul(u64::from(machine.mem_unit));
    if bytes > total {
        let problem = format!("this machine has {} MiB; give less", total / layout::MIB);
        return Err(Error::input(size_argument(bytes), problem));
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    if let Some(limit) = limit.filter(|limit| bytes > *limit) {
        let problem =
            format!("the address space is limited to {} MiB; raise it with ulimit -v", limit / layout::MIB);
        return Err(Error::input(size_argument(bytes), problem));
    }
    Ok(bytes)
}

fn check_debug_exit(PortNumber(port): PortNumber) -> Result<Range<u16>> {
    let name = || format!("--debug-exit {port:#x}");
    let ports = port..port.saturating_add(layout::DEBUG_EXIT_PORTS);
    if layout::has_device(&ports) {
        return Err(Error::input(name(), "the machine has a device of its own there; 0xf4 is free"));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_whole_pages_within_the_machine() {
        assert_eq!(check_memory(MemorySize(64 << 20)).unwrap(), 64 << 20);
        for (bytes, says) in
            [(0, "at least"), ((64 << 20) + 1024, "multiple of 4K"), (1 << 60, "this machine has")]
        {
            let message = check_memory(MemorySize(bytes)).unwrap_err().to_string();
            assert!(message.contains(says) && message.starts_with("--memory "), "{message}");
        }
    }
}
