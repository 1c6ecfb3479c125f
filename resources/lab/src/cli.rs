//! What `lab` understands, and what it does about it.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lab::{Cache, Config, Device, Lab, Refresh, Result, Series};

use crate::foreground;

const EXAMPLES: &str = "\
Examples:
  lab provision
      everything fetched and installed, once; quick when it is there
  lab run -- uname -r
      one command in a lab host on kernel 6.12
  lab run --kernel 6.1 --vfio --device nvme,file=disk.img --device ivshmem,vectors=64 -- lspci -vv
      another kernel, and two devices bound to vfio-pci: the first root port's bus is 01, the second's 02
  lab run --trace msix_write_config --device nvme -- sh -c 'modprobe nvme; sleep 2'
      when MSI-X of a device was really turned on and off
  lab shell --vfio --device igb
      look around";

/// Emulated Linux hosts with KVM and VFIO, for machines that have neither.
///
/// A lab host boots in seconds on one of two Debian kernels, has the devices you ask for, each in an IOMMU group of its
/// own, and shows this machine's files at their own paths, so that what was built here runs there. What it writes is
/// gone when it ends.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Fetch and install what lab hosts need (root), or say what is missing.
    Provision {
        /// 6.12, 6.1 or all.
        #[arg(long, default_value = "all")]
        kernel: String,
        /// Look for newer releases of kernels that are there already.
        #[arg(long)]
        refresh: bool,
    },
    /// Build a disk image with Debian for guests (root), and print its path. Quick when it is there.
    Distribution {
        /// The kernel of the guest: 6.12 or 6.1.
        #[arg(long, default_value_t = Series::V6_12)]
        kernel: Series,
    },
    /// Run a command in a lab host.
    ///
    /// It has this directory, this environment and these streams. The status is the command's own, or 125 if the lab
    /// host failed.
    Run {
        #[command(flatten)]
        host: Host,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Open a shell in a lab host. The host ends with the shell.
    Shell {
        #[command(flatten)]
        host: Host,
    },
    /// Bind PCI devices of the machine this runs on to vfio-pci.
    Bind {
        /// Addresses such as 0000:01:00.0.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Give PCI devices of the machine this runs on back to their drivers.
    Unbind {
        /// Addresses such as 0000:01:00.0.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Serve the line of a lab host; its init runs this.
    #[command(hide = true)]
    Agent,
}

#[derive(Args)]
struct Host {
    /// The kernel: 6.12 (has dynamic MSI-X) or 6.1 (has not).
    #[arg(long, default_value_t = Series::V6_12)]
    kernel: Series,
    /// A device; may be given several times.
    ///
    /// nvme[,vectors=N][,queues=N][,size=SIZE|,file=PATH]: a disk of zeros, or of that file.
    /// ivshmem[,vectors=N][,size=SIZE]: shared memory with doorbells.
    /// igb, e1000e: Ethernet controllers without a network.
    /// qemu:TEXT: any -device of QEMU.
    #[arg(long = "device", value_name = "DEVICE")]
    devices: Vec<Device>,
    /// Bind every device to vfio-pci first.
    #[arg(long)]
    vfio: bool,
    /// CPUs of the lab host that run commands. Its first CPU is one more.
    #[arg(long, default_value_t = 2)]
    cpus: u8,
    /// Memory of the lab host in MiB.
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// A trace event of QEMU's to print at the end, such as msix_write_config.
    #[arg(long = "trace", value_name = "EVENT")]
    traces: Vec<String>,
    /// One more word for QEMU's command line; may be given several times.
    #[arg(long = "qemu-arg", value_name = "WORD", allow_hyphen_values = true)]
    qemu_arguments: Vec<String>,
}

impl Host {
    fn boot(self) -> Result<Lab> {
        let cache = Cache::open()?;
        lab::provision(&cache, &[self.kernel], Refresh::Keep)?;
        let mut config = Config::new(self.kernel).cpus(self.cpus).memory_mib(self.memory);
        let count = self.devices.len();
        config = self.devices.into_iter().fold(config, Config::device);
        config = self.traces.into_iter().fold(config, Config::trace);
        let lab = Lab::boot(&cache, config.qemu_arguments(self.qemu_arguments))?;
        for device in 0..count {
            if self.vfio {
                eprintln!("lab: device {device} is {}, bound to vfio-pci", lab.bind_to_vfio(device)?);
            } else {
                eprintln!("lab: device {device} is {}", lab.address(device)?);
            }
        }
        Ok(lab)
    }
}

/// Does what the command line says.
pub(crate) fn run() -> Result<ExitCode> {
    match Cli::parse().verb {
        Verb::Provision { kernel, refresh } => {
            let series = match kernel.as_str() {
                "all" => Series::ALL.to_vec(),
                one => vec![one.parse().map_err(|why| lab::Error::Device("--kernel".into(), why))?],
            };
            let refresh = if refresh { Refresh::Newest } else { Refresh::Keep };
            for kernel in lab::provision(&Cache::open()?, &series, refresh)? {
                eprintln!("lab: kernel {} is {}", kernel.series, kernel.release);
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Distribution { kernel } => {
            println!("{}", lab::distribution(&Cache::open()?, kernel)?.display());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Run { host, command } => {
            let traced = !host.traces.is_empty();
            let lab = host.boot()?;
            let status = foreground::run(&lab, command)?;
            if traced {
                eprint!("{}", lab.trace()?);
            }
            Ok(status)
        }
        Verb::Shell { host } => {
            let lab = host.boot()?;
            eprintln!(
                "lab: this machine's files are here too; what you write is gone with the lab host, which ends with this shell"
            );
            foreground::run(&lab, vec!["bash".into()])
        }
        Verb::Bind { addresses } => {
            addresses.iter().try_for_each(|a| lab::vfio::bind(a)).map(|()| ExitCode::SUCCESS)
        }
        Verb::Unbind { addresses } => {
            addresses.iter().try_for_each(|a| lab::vfio::unbind(a)).map(|()| ExitCode::SUCCESS)
        }
        Verb::Agent => lab::run_agent().map(|()| ExitCode::SUCCESS),
    }
}
