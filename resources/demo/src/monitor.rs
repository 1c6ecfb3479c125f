//! Which monitor runs a guest.

use std::fmt;

use clap::ValueEnum;
use guest::{Monitor, Result};

/// A monitor, by name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum MonitorKind {
    /// The VMM of this project.
    Ours,
    /// The installed QEMU.
    Qemu,
}

impl MonitorKind {
    /// The monitor.
    pub(crate) fn monitor(self) -> Result<Monitor> {
        match self {
            Self::Ours => Monitor::ours(),
            Self::Qemu => Ok(Monitor::Qemu),
        }
    }
}

impl fmt::Display for MonitorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "our vmm",
            Self::Qemu => "QEMU",
        })
    }
}
