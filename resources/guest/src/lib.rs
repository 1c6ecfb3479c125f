//! Linux guests that say what became of their interrupts, and hosts to run them on.
//!
//! An [`Image`] is a stock Debian kernel and an initramfs with our init and our drivers, for QEMU's ivshmem doorbell and
//! for the VMM's IMS devices; a [`Machine`] boots it under a [`Monitor`] (ours, or QEMU as the reference) on a [`Host`] (a lab host, or this
//! machine); a [`Session`] is one such boot, and a [`Transcript`] all it said. What the guest says in them are
//! [`Line`]s; what our VMM tells of its devices is a [`Report`].
//!
//! ```no_run
//! use guest::{Host, Image, Machine, Monitor, Session, Tools};
//! use lab::{Cache, Config, Device, Lab, Refresh, Series};
//!
//! let cache = Cache::open()?;
//! lab::provision(&cache, &[Series::V6_12], Refresh::Keep)?;
//! let host = Host::Lab(Box::new(Lab::boot(&cache, Config::new(Series::V6_12).device(Device::ivshmem(64)))?));
//! let image = Image::build(&cache, Series::V6_12, Tools::None)?;
//! let machine = Machine::new(&image).vfio(host.lab()?.bind_to_vfio(0)?).job("grow");
//! let seen = Session::start(&host, &machine, &Monitor::ours()?)?.finish(|_| ())?;
//! println!("{} vectors", seen.line("doorbell")?.number("vectors")?);
//! # Ok::<(), guest::Error>(())
//! ```

mod built;
mod digest;
mod drivers;
mod error;
mod here;
mod host;
mod image;
mod interrupts;
mod kbuild;
mod machine;
mod program;
pub mod report;
mod said;
mod session;
mod terminal;
mod transcript;

pub use built::built;
pub use digest::sha256;
pub use error::{Error, Result};
pub use host::Host;
pub use image::{Image, Tools};
pub use interrupts::HostVectors;
pub use machine::{End, Machine, Monitor};
pub use report::{
    Counters, DeviceReport, Domain, MediatedSlots, Msix, Queue, Report, Routes, SoftwareCounters,
    SoftwareMsix,
};
pub use said::Line;
pub use session::{Event, Session};
pub use terminal::Terminal;
pub use transcript::Transcript;
