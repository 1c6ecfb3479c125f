//! What `demo` understands.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use guest::{Monitor, Result};
use lab::Series;

use crate::bench::Work;
use crate::{bench, compare, control, messages, run};

/// Boot a Linux guest with passed-through devices and report what became of their interrupts.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Verb {
    /// Ring one vector without pause while others come and go: lost interrupts, ours beside QEMU's.
    CompareLosses(CompareLosses),
    /// What interrupts cost a Linux guest, ours beside QEMU's.
    BenchGuest(BenchGuest),
    /// A device that loses an event for certain when MSI-X is turned off in order to grow, and what we do with it.
    Control(Control),
    /// In a lab host: raise every MSI message of the USB controller at this address.
    #[command(hide = true)]
    Messages {
        /// The controller, bound to vfio-pci.
        #[arg(long)]
        inside: String,
    },
}

/// The main job.
#[derive(Args, Clone)]
pub(crate) struct Run {
    /// The kernel of the emulated host: 6.12 (has dynamic MSI-X) or 6.1 (has not).
    #[arg(long, default_value_t = Series::V6_12)]
    pub(crate) host: Series,
    /// Use this machine's own KVM and VFIO instead, with this device; it must be bound to vfio-pci.
    #[arg(long, value_name = "BDF", conflicts_with = "host")]
    pub(crate) device: Option<String>,
    /// The kernel of the guest: 6.12 or 6.1.
    #[arg(long, default_value_t = Series::V6_12)]
    pub(crate) guest: Series,
    /// vCPUs of the guest.
    #[arg(long, default_value_t = 4)]
    pub(crate) cpus: u32,
    /// Vectors of the device that grows, up to 256.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) vectors: u16,
    /// MiB to read from the disk.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) read_mib: u64,
    /// Who runs the guest.
    #[arg(long, value_enum, default_value_t = Who::Ours)]
    pub(crate) monitor: Who,
}

/// Lost interrupts beside QEMU's.
#[derive(Args, Clone)]
pub(crate) struct CompareLosses {
    /// The kernel of the emulated host.
    #[arg(long, default_value_t = Series::V6_1)]
    pub(crate) host: Series,
    /// How often vector 0 rings at least.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) rings: u64,
    /// How often vector 0 rings at least under QEMU.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) qemu_rings: u64,
    /// vCPUs of the guest.
    #[arg(long, default_value_t = 2)]
    pub(crate) cpus: u32,
}

/// Times in Linux guests, beside QEMU's.
#[derive(Args, Clone)]
pub(crate) struct BenchGuest {
    /// What to measure: all of it, unless said otherwise.
    #[arg(value_enum)]
    pub(crate) work: Vec<Work>,
    /// The kernel of the emulated host.
    #[arg(long, default_value_t = Series::V6_12)]
    pub(crate) host: Series,
    /// How often guests boot for it, ours and QEMU's side by side: each time 4 pairs of most pieces
    /// of work, 2 of long ones, and 1 of boots.
    /// What differs between first and second is even after an even number.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) turns: u32,
}

/// The control.
#[derive(Args, Clone)]
pub(crate) struct Control {
    /// The kernel of the emulated host.
    #[arg(long, default_value_t = Series::V6_1)]
    pub(crate) host: Series,
    /// In a lab host: drive the device at this address.
    #[arg(long, hide = true)]
    pub(crate) inside: Option<String>,
}

/// A monitor, by name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Who {
    /// The VMM of this project.
    Ours,
    /// The installed QEMU.
    Qemu,
}

impl Who {
    /// The monitor.
    pub(crate) fn monitor(self) -> Result<Monitor> {
        match self {
            Self::Ours => Monitor::ours(),
            Self::Qemu => Ok(Monitor::Qemu),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "our vmm",
            Self::Qemu => "QEMU",
        })
    }
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn obey(self) -> Result<ExitCode, Box<dyn Error>> {
        Ok(match self.verb {
            None => run::run(&self.run)?,
            Some(Verb::CompareLosses(compare)) => compare::losses(&compare)?,
            Some(Verb::BenchGuest(bench)) => bench::run(&bench)?,
            Some(Verb::Control(Control { inside: Some(address), .. })) => control::inside(&address)?,
            Some(Verb::Control(control)) => control::run(&control)?,
            Some(Verb::Messages { inside }) => messages::inside(&inside)?,
        })
    }
}
