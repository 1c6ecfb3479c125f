//! The lab host: an emulated Linux host with KVM and VFIO, for machines that have neither.
//!
//! QEMU's software emulation of AMD SVM and of an Intel IOMMU is good enough to boot a stock Debian kernel in
//! seconds, to load `kvm-amd` and `vfio-pci` in it, and to run a VMM with passed-through devices there. This crate
//! fetches what that takes ([`provision()`]), boots such a host with the devices asked for ([`Lab`]), and runs
//! commands in it, with this machine's files in view. The binary `lab` is the same on the command line.
//!
//! ```no_run
//! use lab::{Cache, Command, Config, Device, Lab, Refresh, Series};
//!
//! let cache = Cache::open()?;
//! lab::provision(&cache, &[Series::V6_12], Refresh::Keep)?;
//! let lab = Lab::boot(&cache, Config::new(Series::V6_12).device(Device::ivshmem(64)))?;
//! let bdf = lab.bind_to_vfio(0)?;
//! let seen = lab.run(Command::new("lspci").args(["-vv", "-s", &bdf]))?;
//! println!("{}", seen.stdout_text());
//! # Ok::<(), lab::Error>(())
//! ```

mod agent;
mod cache;
pub mod cpio;
mod cpus;
mod device;
mod distribution;
mod error;
mod host;
mod initramfs;
mod interrupts;
mod ivshmem;
mod kernel;
mod modules;
mod provision;
mod pulse;
mod trace;
pub mod vfio;
mod wire;

pub use agent::serve as run_agent;
pub use cache::Cache;
pub use device::{Device, Disk};
pub use distribution::distribution;
pub use error::{At, Error, Result};
pub use host::{Command, Config, Input, Job, Lab, Output, Said};
pub use initramfs::Initramfs;
pub use interrupts::{Interrupt, interrupts};
pub use ivshmem::Doorbell;
pub use kernel::{Kernel, Series};
pub use modules::Modules;
pub use provision::{Refresh, provision};
pub use trace::{MsixState, msix_states};
