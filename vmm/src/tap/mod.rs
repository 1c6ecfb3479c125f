//! A tap: a network interface of the host whose packets this process reads and writes, with a virtio header before each
//! (Documentation/networking/tuntap.rst in Linux).
//!
//! | part | owns |
//! |---|---|
//! | [`Tap`] | the descriptors of an interface, one per queue, and which of them are attached |
//! | [`offloads`] | what the reader accepts besides complete packets |
//! | [`name`] | names that the kernel takes as they are |
//! | `refusal` | why the host does not give us the tap, for people |
//! | `ioctl` | the system calls, and their `unsafe` |
//!
//! Invariant: every descriptor is non-blocking, has IFF_VNET_HDR, and its header has [`HEADER_BYTES`]. The tap sends
//! packets to attached queues only. A new tap has its first queue attached.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod ioctl;
pub mod name;
pub mod offloads;
mod refusal;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use libc::{
    EINVAL, IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_UP, IFF_VNET_HDR,
    O_NONBLOCK,
};

pub use name::{TapName, TapNameError};
pub use offloads::Offloads;

use crate::error::{Context, Error, Result};
use refusal::Existing;

/// Bytes of the virtio header before each packet: `struct virtio_net_hdr_v1` (virtio 1.2 §5.1.6).
pub const HEADER_BYTES: usize = 12;

/// A tap.
#[derive(Debug)]
pub struct Tap {
    name: TapName,
    queues: Vec<Arc<File>>,
    interface: Interface,
    offloads: Offloads,
    mtu: Option<u16>,
}

/// How many queues the kernel's interface may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interface {
    OneQueue,
    MultiQueue,
}

impl Interface {
    fn flags(self) -> u16 {
        let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        let flags = if self == Self::MultiQueue { flags | IFF_MULTI_QUEUE } else { flags };
        // The flags of TUNSETIFF have 16 bits.
        flags as u16
    }
}

impl Tap {
    /// Opens a tap with this many queues, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`Error::Input`] with the remedy if the host does not give us the tap.
    pub fn open(name: &TapName, queues: u16) -> Result<Self> {
        let wrong = |problem: String| Error::input(format!("--net tap={name}"), problem);
        let before = ioctl::interface_flags(name);
        let (first, interface) = connect_first(name, queues).map_err(wrong)?;
        let mut files = vec![first];
        for _ in 1..queues {
            let next = connect(name, interface).map_err(|failure| wrong(failure.explain(name, queues)))?;
            files.push(next);
        }
        let context = |what: &str| format!("--net tap={name}: {what}");
        for file in &files {
            ioctl::set_header_length(file, HEADER_BYTES as i32).context(context("setting its header"))?;
            ioctl::set_little_endian(file).context(context("setting its header's byte order"))?;
        }
        let queues = files.into_iter().map(Arc::new).collect();
        let mtu = ioctl::mtu(name).ok().and_then(|mtu| u16::try_from(mtu).ok());
        let mut tap = Self { name: name.clone(), queues, interface, offloads: Offloads::BASE, mtu };
        let with_uso = Offloads::BASE.union(Offloads::USO);
        if tap.set_offloads(with_uso).is_ok() {
            tap.offloads = with_uso;
        }
        tap.set_offloads(Offloads::NONE).context(context("setting its offloads"))?;
        tap.attach(1).context(context("detaching its queues"))?;
        match before {
            Ok(flags) if i32::from(flags) & IFF_UP != 0 => {}
            Ok(_) => tracing::warn!("tap {name} is down; ip link set {name} up"),
            Err(_) => {
                tracing::warn!("tap {name} is created for this run, and is down; ip link set {name} up")
            }
        }
        Ok(tap)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &TapName {
        &self.name
    }

    /// Its descriptors, one per queue.
    #[must_use]
    pub fn queues(&self) -> &[Arc<File>] {
        &self.queues
    }

    /// The offloads that the host has.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Its MTU, if the host says one.
    #[must_use]
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// Sets what the readers accept besides complete packets.
    ///
    /// # Errors
    /// The host's.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        // The setting is the interface's, so one descriptor is enough.
        self.queues.first().map_or(Ok(()), |file| ioctl::set_offload(file, offloads.bits()))
    }

    /// Attaches the first `count` queues, and detaches the others. Packets that wait in a queue that is detached are
    /// lost.
    ///
    /// # Errors
    /// The host's.
    pub fn attach(&self, count: usize) -> io::Result<()> {
        if self.interface == Interface::OneQueue {
            return Ok(());
        }
        for (index, file) in self.queues.iter().enumerate() {
            let flag = if index < count { IFF_ATTACH_QUEUE } else { IFF_DETACH_QUEUE };
            match ioctl::set_queue(file, &self.name, flag as u16) {
                // The queue is attached or detached already.
                Err(error) if error.raw_os_error() == Some(EINVAL) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// What failed.
enum Failure {
    Device(io::Error),
    Interface(io::Error),
}

impl Failure {
    fn explain(&self, name: &TapName, queues: u16) -> String {
        match self {
            Self::Device(error) => refusal::of_device(error),
            Self::Interface(error) => refusal::of_interface(name, queues, existing(name), error),
        }
    }
}

/// The first queue. An interface that was created with several queues is used as such, also for one.
fn connect_first(name: &TapName, queues: u16) -> std::result::Result<(File, Interface), String> {
    let wanted = if queues > 1 { Interface::MultiQueue } else { Interface::OneQueue };
    match connect(name, wanted) {
        Ok(file) => Ok((file, wanted)),
        Err(failure @ Failure::Interface(_)) if wanted == Interface::OneQueue => {
            let file = connect(name, Interface::MultiQueue).map_err(|_| failure.explain(name, queues))?;
            Ok((file, Interface::MultiQueue))
        }
        Err(failure) => Err(failure.explain(name, queues)),
    }
}

fn connect(name: &TapName, interface: Interface) -> std::result::Result<File, Failure> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open("/dev/net/tun");
    let file = file.map_err(Failure::Device)?;
    ioctl::set_interface(&file, name, interface.flags()).map_err(Failure::Interface)?;
    Ok(file)
}

/// What the host knows of an interface with this name. Only messages use it.
fn existing(name: &TapName) -> Existing {
    if ioctl::interface_flags(name).is_err() {
        return Existing::Nothing;
    }
    let flags = std::fs::read_to_string(format!("/sys/class/net/{name}/tun_flags"));
    let flags = flags.ok().and_then(|text| u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok());
    flags.map_or(Existing::Other, Existing::Tun)
}
