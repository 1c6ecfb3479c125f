//! The command line: options, defaults and help. [`crate::config`] validates the values against the host.

mod device;
mod disk;
mod net;
mod parameters;
mod port;
mod vfio;
mod vsock;

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use device::{DeviceOption, DeviceOptionError};
pub use disk::{DiskOption, DiskOptionError};
pub use net::{NetOption, NetOptionError};
pub use parameters::ParameterError;
pub use port::{PortNumber, PortNumberError};
pub use vfio::{RomOption, VfioOption, VfioOptionError};
pub use vsock::{VsockOption, VsockOptionError};

use crate::layout::{GIB, KIB, MIB};
use crate::printable::{PrintableLines, is_printable};

const EXAMPLES: &str = "\
Examples:
  Boot a kernel with an initial RAM disk, console on this terminal:
      vmm --kernel /boot/vmlinuz-6.12 --initrd initrd.img

  Four CPUs, 4 GiB, and two passed-through devices (bound to vfio-pci first, see below):
      vmm --kernel vmlinuz --initrd initrd.img --cpus 4 --memory 4G \\
          --vfio 0000:01:00.0 --vfio /sys/bus/pci/devices/0000:02:00.0

  A source of random numbers for the guest (its modules virtio_pci and virtio_rng):
      vmm --kernel vmlinuz --initrd initrd.img --rng

  A disk with four queues, and a read-only one (the guest's modules virtio_pci and virtio_blk):
      vmm --kernel vmlinuz --initrd initrd.img --disk path=root.img,queues=4 --disk path=data.img,readonly=on

  A distribution's disk image, with the kernel that its boot loader would choose:
      vmm --boot disk --disk path=debian.raw --memory 2G

  A network device in front of a tap, with two pairs of queues that the host's kernel serves (the guest's modules
  virtio_pci and virtio_net; the host's vhost_net):
      ip tuntap add tap0 mode tap multi_queue user $(id -un)
      ip link set tap0 up
      vmm --kernel vmlinuz --initrd initrd.img --net tap=tap0,queues=2,vhost=on

  Sockets between guest and host (the guest's module vmw_vsock_virtio_transport). A host program reaches port 80 of the
  guest by `CONNECT 80` on guest.sock, and a guest reaches a host program that listens on guest.sock_5000 by CID 2, port 5000:
      vmm --kernel vmlinuz --initrd initrd.img --vsock cid=3,socket=guest.sock

  The same between programs that use virtio sockets on both sides (the host's vhost_vsock):
      vmm --kernel vmlinuz --initrd initrd.img --vsock cid=3,vhost=on

  Test devices for a driver of an interrupt message store: 1024 queues that signal slots in a BAR, 1024 that
  signal slots in guest memory, MSI-X beside them, and a timer without MSI-X. Unused slots cost nothing.
  vmm/ims-devices.md describes their registers:
      vmm --kernel vmlinuz --initrd initrd.img --device ims-queues,slots=1024 --device ims-timer

  The same queues, with a host device that fires the slots by its MSI-X vectors. The guest does not see that device. Bind
  it to vfio-pci like a passed-through device:
      vmm --kernel vmlinuz --initrd initrd.img --device ims-mediated,host=0000:01:00.0,slots=32

Binding a device to vfio-pci:
      modprobe vfio-pci
      echo vfio-pci     > /sys/bus/pci/devices/0000:01:00.0/driver_override
      echo 0000:01:00.0 > /sys/bus/pci/devices/0000:01:00.0/driver/unbind
      echo 0000:01:00.0 > /sys/bus/pci/drivers_probe

Guest kernels with pci=nomsi or acpi=off work; pci=noacpi is not tested. With acpi=off a guest cannot power off, and ends by a
reboot. With noapic, passed-through devices need MSI or MSI-X, and programs have no serial console.

At the console, Ctrl-A h lists the keys, Ctrl-A x ends the VMM, and Ctrl-A Ctrl-A sends one Ctrl-A to the guest.

Exit status:
  0  the guest powered off or rebooted
  1  the host failed
  2  wrong usage or input
  3  the guest crashed (triple fault, KVM internal error); the message says where
  4  the guest's kernel panicked (with its module pvpanic-mmio, or built in)
  5  a thread made a system call that its sandbox forbids; the message names both
  128 + n  signal n ended the VMM
  (v << 1) | 1, low 8 bits: with --debug-exit, the guest wrote v to the port";

/// Boots a Linux guest on KVM, with passed-through devices whose interrupt vectors grow on demand.
#[derive(Debug, Clone, Parser)]
#[command(name = "vmm", version, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct CommandLine {
    /// The guest to run, without a command.
    #[command(flatten)]
    pub run: Option<Args>,
    /// Something else to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does instead of running a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Say what this host can do, and what to do about each missing thing
    ///
    /// The exit status is 0 if guests with passed-through devices can run, and 1 otherwise.
    Check {
        /// Print JSON instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Print the manual page: vmm man | man -l -
    Man,
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The options of a guest.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// Kernel to boot: a Linux bzImage (vmlinuz) or an ELF file (vmlinux)
    ///
    /// An ELF file with the note XEN_ELFNOTE_PHYS32_ENTRY, of 32 or 64 bits, is entered by PVH. Other ELF files and bzImages
    /// are entered by Linux' 64-bit boot protocol.
    #[arg(long, value_name = "FILE", required_unless_present = "boot")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk, or PVH's first module
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Boot the first disk's own kernel, in place of --kernel and --initrd
    ///
    /// Its boot loader's entry is followed: a Boot Loader Specification entry, else the first one of GRUB's configuration, else
    /// /vmlinuz. Partition tables are GPT or MBR, file systems ext4 or FAT. --cmdline comes behind the entry's command line.
    #[arg(long, value_enum, value_name = "disk", conflicts_with_all = ["kernel", "initrd"])]
    pub boot: Option<BootSource>,

    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0", allow_hyphen_values = true)]
    pub cmdline: String,

    /// Number of CPUs, 1 to 1024. More than 255 need a KVM with 32-bit APIC IDs, and a guest that uses them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub cpus: u16,

    /// Guest memory, with suffix K, M or G
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    pub memory: MemorySize,

    /// PCI device to pass through, as 0000:01:00.0 or its directory in sysfs; may be given many times
    ///
    /// id=NAME is its name in the report. addr=DD.F is its device and function number in the guest, in hexadecimal: 01.0
    /// to 1f.7. Without addr, the devices have numbers from 01.0 on, and functions of one host device share a number.
    /// rom=FILE is the expansion ROM that the guest sees in place of the device's own, and rom=off hides it.
    /// p2p=off keeps the other passed-through devices from its BARs; they reach them by DMA otherwise.
    #[arg(long, value_name = "BDF-or-path[,KEY=VALUE]")]
    pub vfio: Vec<VfioOption>,

    /// Maximum number of host interrupts for all passed-through and mediated devices together. Further vectors wait
    /// until a host interrupt is free. The default is no limit
    #[arg(long, value_name = "N")]
    pub host_vectors: Option<u32>,

    /// Maximum number of host interrupts for each passed-through or mediated device. The default is no limit
    #[arg(long, value_name = "N")]
    pub device_vectors: Option<u32>,

    /// Give the guest a virtio entropy device, which draws from the host's getrandom
    #[arg(long)]
    pub rng: bool,

    /// Disk of the guest: a raw image or a block device; may be given many times
    ///
    /// readonly=on keeps the guest from writing. queues=N is the number of its queues, 1 to 64, each with a thread of the VMM;
    /// the default is 1. id=NAME is its serial number in the guest, and its name in the report. addr=DD.F is its device and
    /// function number in the guest, as for --vfio. Data is in the host's page cache until the guest flushes it. A writer
    /// needs the file for itself, and readers share it.
    #[arg(long, value_name = "path=FILE[,KEY=VALUE]")]
    pub disk: Vec<DiskOption>,

    /// Network device in front of a tap of the host, which is created if it does not exist; may be given many times
    ///
    /// mac=MAC is the address of the guest's interface; the default depends on the tap's name only. queues=N is the number
    /// of its pairs of queues, 1 to 64, which needs a tap with multi_queue. vhost=on has the host's kernel move the
    /// packets, by vhost-net. id=NAME is its name in the report. addr=DD.F is its device and function number in the guest,
    /// as for --vfio.
    #[arg(long, value_name = "tap=NAME[,KEY=VALUE]")]
    pub net: Vec<NetOption>,

    /// Socket device, for streams between ports of the guest and sockets of the host
    ///
    /// cid=N is the guest's context identifier, 3 to 4294967294. A host program connects to PATH, writes `CONNECT port` and a
    /// newline, and reads `OK hostport` and a newline once the guest has accepted. A connection of the guest to CID 2, port
    /// P, goes to the socket PATH_P. There are at most 1024 connections. With vhost=on instead of the socket, the host's
    /// kernel moves the packets, by vhost-vsock: programs of the host use virtio sockets, the guest's CID is N, and the
    /// host's is 2. id=NAME is its name in the report. addr=DD.F is its device and function number in the guest, as for
    /// --vfio.
    #[arg(long, value_name = "cid=N,socket=PATH|vhost=on[,KEY=VALUE]")]
    pub vsock: Option<VsockOption>,

    /// Device with an interrupt message store (IMS): ims-queues,slots=N[,memory-slots=M], ims-timer[,slots=N] or
    /// ims-mediated,host=BDF,slots=N; may be given many times
    ///
    /// ims-queues has MSI-X, N queues that signal slots in a BAR, and M queues that signal slots in guest memory. M
    /// defaults to N. ims-timer has N timers, 64 by default. Each timer signals a slot in a BAR, and there are no
    /// other interrupts. ims-mediated is ims-queues without slots in memory. Its queues belong to a host device, an
    /// ivshmem-doorbell, and several ims-mediated may share one. N is 1 to 65536, and less than the host device's
    /// vectors for ims-mediated. M is 0 to 65536.
    #[arg(long, value_name = "NAME[,KEY=VALUE]")]
    pub device: Vec<DeviceOption>,

    /// Connection of the guest's first serial port: this terminal, a file for its output, or none. The default is stdio,
    /// and off with --console
    #[arg(long, value_name = "stdio|file=PATH|off")]
    pub serial: Option<SerialTarget>,

    /// Give this terminal to a virtio console, hvc0 in the guest, which is faster than the serial port and follows the
    /// terminal's size. Use --cmdline console=hvc0, and --serial file=PATH for the messages before the guest has the driver
    #[arg(long)]
    pub console: bool,

    /// Location of the interrupt controllers: all in the kernel, or only the local APICs there and the IOAPIC in the
    /// VMM
    #[arg(long, value_enum, default_value_t = IrqChip::Kernel)]
    pub irqchip: IrqChip,

    /// Where to unpack a compressed kernel: on the host before the guest starts, or in the guest
    #[arg(long, value_enum, default_value_t = Unpack::Host)]
    pub unpack: Unpack,

    /// I/O port by which the guest ends the VMM, as QEMU's isa-debug-exit: a write of v, 1, 2 or 4 bytes wide, is the exit
    /// status (v << 1) | 1. The default is none
    #[arg(long, value_name = "PORT")]
    pub debug_exit: Option<PortNumber>,

    /// Whether each thread may make only the system calls that it needs (seccomp), and open only the files that it needs (where the
    /// host has Landlock). Another system call ends the VMM
    #[arg(long, value_enum, value_name = "on|off", default_value_t = SandboxMode::On)]
    pub sandbox: SandboxMode,

    /// Write a report of each device as JSON at exit and on SIGUSR1; `-` prints a tree on stderr
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Append the messages to a file instead of stderr. The reason of a failed run is on stderr, too
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// Verbosity of the messages
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Warn)]
    pub log_level: LogLevel,
}

/// An amount of guest memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize(pub u64);

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = match text.char_indices().last() {
            Some((at, 'k' | 'K')) => (&text[..at], KIB),
            Some((at, 'm' | 'M')) => (&text[..at], MIB),
            Some((at, 'g' | 'G')) => (&text[..at], GIB),
            _ => return Err("expected a number with suffix K, M or G, for example 512M".into()),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("expected a number with suffix K, M or G, for example 512M".into());
        }
        let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| "more than a 64-bit address space".into())
    }
}

/// The connection of the guest's serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SerialTarget {
    /// Standard input and output.
    Stdio,
    /// A file for the output, and no input.
    File(PathBuf),
    /// No connection: the output is discarded.
    Off,
}

impl FromStr for SerialTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "off" => Ok(Self::Off),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("expected stdio, file=PATH or off".into()),
        }
    }
}

/// Where the interrupt controllers are emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IrqChip {
    /// Local APICs, IOAPIC and PIC in the kernel.
    Kernel,
    /// Local APICs in the kernel, the IOAPIC in the VMM.
    Split,
}

/// Where the kernel comes from, if it is no file of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BootSource {
    /// The first disk
    Disk,
}

/// Where a compressed kernel is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unpack {
    /// On the host, before the guest starts: faster, but the kernel's base address is not randomised
    Host,
    /// In the guest, by the kernel's own code, which may randomise its base address.
    Guest,
}

/// Whether the VMM's threads are confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SandboxMode {
    /// Before the guest starts
    On,
    /// Never, for debuggers and tracers
    Off,
}

/// Verbosity of the messages on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Only the final error.
    Off,
    /// Errors.
    Error,
    /// Warnings.
    Warn,
    /// The steps of a run.
    Info,
    /// Details for developers.
    Debug,
    /// Every access.
    Trace,
}

impl From<LogLevel> for tracing_subscriber::filter::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// The text of an error of the parser, if it must not be printed as it is: it may repeat arguments, and these have characters that a
/// terminal would obey. The text has no colours.
#[must_use]
pub fn printable_refusal(
    error: &clap::Error,
    arguments: impl IntoIterator<Item = OsString>,
) -> Option<String> {
    let is_plain = |argument: OsString| argument.to_string_lossy().chars().all(is_printable);
    let is_harmless = arguments.into_iter().all(is_plain);
    (!is_harmless).then(|| PrintableLines(error.render()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_a_suffix() {
        assert_eq!("640K".parse(), Ok(MemorySize(640 << 10)));
        assert_eq!("512M".parse(), Ok(MemorySize(512 << 20)));
        assert_eq!("5g".parse(), Ok(MemorySize(5 << 30)));
    }

    #[test]
    fn wrong_sizes_are_refused() {
        for text in [
            "",
            "M",
            "512",
            "-1M",
            "+1M",
            "1.5G",
            "0x10M",
            "1T",
            "1 M",
            "99999999999999999999G",
            "17179869184G",
        ] {
            assert!(text.parse::<MemorySize>().is_err(), "{text}");
        }
    }

    #[test]
    fn serial_targets() {
        assert_eq!("stdio".parse(), Ok(SerialTarget::Stdio));
        assert_eq!("off".parse(), Ok(SerialTarget::Off));
        assert_eq!("file=/a=b".parse(), Ok(SerialTarget::File("/a=b".into())));
        for text in ["", "file", "file=", "tty", "off="] {
            assert!(text.parse::<SerialTarget>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_contract_of_names_and_defaults() {
        let args = Args::try_parse_from(["vmm", "--kernel", "k"]).unwrap();
        assert_eq!(args.memory, MemorySize(512 << 20));
        assert_eq!((args.cpus, args.serial, args.irqchip), (1, None, IrqChip::Kernel));
        assert!(!args.rng && !args.console);
        let args = Args::try_parse_from([
            "vmm",
            "--kernel",
            "k",
            "--initrd",
            "i",
            "--cmdline",
            "--x",
            "--cpus",
            "64",
            "--memory",
            "1G",
            "--vfio",
            "a",
            "--vfio",
            "b",
            "--rng",
            "--disk",
            "path=d",
            "--net",
            "tap=t",
            "--device",
            "ims-timer",
            "--device",
            "ims-queues,slots=8",
            "--serial",
            "off",
            "--log-level",
            "trace",
            "--report",
            "-",
            "--host-vectors",
            "100",
            "--device-vectors",
            "30",
        ]);
        let args = args.unwrap();
        assert_eq!((args.host_vectors, args.device_vectors), (Some(100), Some(30)));
        assert!(matches!(args.device[..], [DeviceOption::ImsTimer { .. }, DeviceOption::ImsQueues { .. }]));
        let devices: Vec<_> = args.vfio.iter().map(|option| option.device.as_str()).collect();
        let counts = (args.rng, args.disk.len(), args.net.len());
        assert_eq!((devices, counts), (vec!["a", "b"], (true, 1, 1)));
        for wrong in [
            &["vmm"][..],
            &["vmm", "--kernel", "k", "--cpus", "0"],
            &["vmm", "--kernel", "k", "--cpus", "1025"],
        ] {
            assert!(Args::try_parse_from(wrong).is_err());
        }
    }
}
