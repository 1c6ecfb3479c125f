//! The command line: its names, defaults and help. What the values mean together is checked in
//! [`crate::config`].

mod device;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};

pub use device::{DeviceOption, DeviceOptionError};

use crate::layout::{GIB, KIB, MIB};

const EXAMPLES: &str = "\
Examples:
  Boot a kernel with an initial RAM disk, console on this terminal:
      vmm --kernel /boot/vmlinuz-6.12 --initrd initrd.img

  Four CPUs, 4 GiB, and two passed-through devices (bound to vfio-pci first, see below):
      vmm --kernel vmlinuz --initrd initrd.img --cpus 4 --memory 4G \\
          --vfio 0000:01:00.0 --vfio /sys/bus/pci/devices/0000:02:00.0

  A source of random numbers for the guest (its modules virtio_pci and virtio_rng):
      vmm --kernel vmlinuz --initrd initrd.img --rng

  Devices to try a driver of an interrupt message store on: 1024 queues that signal slots in a BAR and as many that
  signal slots in guest memory, with MSI-X beside, and a timer without any MSI-X. Slots cost nothing until they are used.
  Their registers: vmm/ims-devices.md:
      vmm --kernel vmlinuz --initrd initrd.img --device ims-queues,slots=1024 --device ims-timer

  The same queues, whose slots a device of this host's fires by its MSI-X vectors; the guest does not see that device. It
  is bound as one that is passed through:
      vmm --kernel vmlinuz --initrd initrd.img --device ims-mediated,host=0000:01:00.0,slots=32

Binding a device to vfio-pci:
      modprobe vfio-pci
      echo vfio-pci     > /sys/bus/pci/devices/0000:01:00.0/driver_override
      echo 0000:01:00.0 > /sys/bus/pci/devices/0000:01:00.0/driver/unbind
      echo 0000:01:00.0 > /sys/bus/pci/drivers_probe

At the console, Ctrl-A x ends the VMM, and Ctrl-A Ctrl-A sends one Ctrl-A to the guest.

Exit status:
  0  the guest powered off or rebooted
  1  the host failed
  2  wrong usage or input
  3  the guest crashed (triple fault, KVM internal error); the message says where
  128 + n  ended by signal n, before the guest ended";

/// Boots a Linux guest on KVM, with passed-through devices whose interrupt vectors grow on demand.
#[derive(Debug, Clone, Parser)]
#[command(name = "vmm", version, after_help = EXAMPLES)]
pub struct Args {
    /// Linux kernel to boot: a bzImage (vmlinuz) or an ELF file (vmlinux)
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,

    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0", allow_hyphen_values = true)]
    pub cmdline: String,

    /// Number of CPUs, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub cpus: u8,

    /// Guest memory, with suffix K, M or G
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    pub memory: MemorySize,

    /// PCI device to pass through, as 0000:01:00.0 or its directory in sysfs; may be given many times
    #[arg(long, value_name = "BDF-or-sysfs-path")]
    pub vfio: Vec<String>,

    /// Host interrupts that all passed-through and mediated devices may have at one time; vectors beyond wait until others
    /// are given back. Any number where it is not said
    #[arg(long, value_name = "N")]
    pub host_vectors: Option<u32>,

    /// Host interrupts that each passed-through or mediated device may have at one time
    #[arg(long, value_name = "N")]
    pub device_vectors: Option<u32>,

    /// Give the guest a source of random numbers: a virtio entropy device, fed by this host's getrandom
    #[arg(long)]
    pub rng: bool,

    /// Device with an interrupt message store (IMS): ims-queues,slots=N[,memory-slots=M], ims-timer[,slots=N] or
    /// ims-mediated,host=BDF,slots=N; may be given many times
    ///
    /// ims-queues has MSI-X, N queues that each signal a slot in a BAR when the guest rings them, and M that signal a slot
    /// in guest memory, or N where M is not said. ims-timer has N timers, or 64, that each signal a slot in a BAR, and no
    /// other interrupts. ims-mediated is ims-queues without slots in memory, whose queues are a device's of this host: an
    /// ivshmem-doorbell, which may be given for several of them. N is 1 to 65536, and of ims-mediated fewer than that
    /// device's vectors; M is 0 to 65536.
    #[arg(long, value_name = "NAME[,KEY=VALUE]")]
    pub device: Vec<DeviceOption>,

    /// Where the guest's first serial port is: this terminal, a file for its output, or nowhere
    #[arg(long, value_name = "stdio|file=PATH|off", default_value = "stdio")]
    pub serial: SerialTarget,

    /// Interrupt controllers: all in the kernel, or only the local APICs there and the IOAPIC here
    #[arg(long, value_enum, default_value_t = IrqChip::Kernel)]
    pub irqchip: IrqChip,

    /// Who unpacks a compressed kernel: the host before the guest starts, or the guest itself
    #[arg(long, value_enum, default_value_t = Unpack::Host)]
    pub unpack: Unpack,

    /// Write a report of each device as JSON at exit and on SIGUSR1; `-` is a tree on stderr
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// How much to say on stderr
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

/// Where the guest's serial port is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SerialTarget {
    /// Standard input and output.
    Stdio,
    /// Output to a file, no input.
    File(PathBuf),
    /// A port whose output goes nowhere.
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

/// Who unpacks a compressed kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unpack {
    /// The VMM, and the guest starts in the unpacked kernel: quicker, but its base address is not randomised
    Host,
    /// The kernel's own unpacking code in the guest, which may randomise its base address.
    Guest,
}

/// How much is said on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing but the final error.
    Off,
    /// What went wrong.
    Error,
    /// What may surprise.
    Warn,
    /// The steps of a run.
    Info,
    /// What a developer wants to see.
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
        assert_eq!((args.cpus, args.serial, args.irqchip), (1, SerialTarget::Stdio, IrqChip::Kernel));
        assert!(!args.rng);
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
        assert_eq!((args.vfio, args.rng), (vec!["a".to_owned(), "b".to_owned()], true));
        for wrong in [
            &["vmm"][..],
            &["vmm", "--kernel", "k", "--cpus", "0"],
            &["vmm", "--kernel", "k", "--cpus", "65"],
        ] {
            assert!(Args::try_parse_from(wrong).is_err());
        }
    }
}
