//! The socket device (virtio 1.2 §5.10): streams between ports of the guest and sockets of the host.
//!
//! | part | owns |
//! |---|---|
//! | [`Vsock`] | identity, configuration, report |
//! | `muxer` | the lane: packets of all connections |
//! | `connection` | one stream: its socket, its backlog, and what the guest is still to be told |
//! | `credit` | flow control |
//! | [`host`] | the Unix sockets |
//! | `packet` | headers |
//! | [`vhost`] | the lane of a device whose packets the host's kernel moves, to virtio sockets of the host |
//!
//! One lane serves all queues, without a lock. Invariants of the VMM's own lane: a byte is read from the host only if the guest has room for it, and
//! each connection buffers at most 64 KiB of the guest's. The number of connections is limited. A packet that breaks a
//! rule costs its connection, and nothing else.

mod connection;
mod counters;
mod credit;
pub mod host;
mod muxer;
mod packet;
pub mod vhost;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::device::{Device, Identity, LaneModel, Model};
use super::device_config::DeviceConfig;
use super::handler::Handler;
use super::interrupts::InterruptSource;
use super::queue::{QueueIndex, QueueSize};
use crate::error::{Context, Result};
use counters::Counters;
use host::HostSocket;
use muxer::Muxer;
use vhost::VhostLane;

/// VIRTIO_VSOCK_F_STREAM: there are stream sockets.
const F_STREAM: u64 = 1 << 0;
const RECEIVE: QueueIndex = QueueIndex(0);
const TRANSMIT: QueueIndex = QueueIndex(1);
/// Events for the driver. There are none.
const EVENT: QueueIndex = QueueIndex(2);
const QUEUES: [QueueSize; 3] = [QueueSize::two_to_the(7), QueueSize::two_to_the(7), QueueSize::two_to_the(3)];

/// The context identifier of a guest: 3 to 4294967294.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestCid(u32);

impl GuestCid {
    /// The CID with this number. 0 to 2 and the largest number are reserved (virtio 1.2 §5.10.4).
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (3..u32::MAX).contains(&number).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.into()
    }
}

/// What is at the host's end of streams.
#[derive(Debug)]
pub enum HostEnd {
    /// Unix sockets. The VMM moves the packets.
    Unix(HostSocket),
    /// Virtio sockets of the host. Its kernel moves the packets, by vhost-vsock.
    Vhost,
}

/// The part of a device that its lane and the report share.
#[derive(Debug)]
pub struct Vsock {
    cid: GuestCid,
    /// The Unix socket. `None` with vhost.
    path: Option<PathBuf>,
    label: Option<String>,
    config: Arc<DeviceConfig>,
    counters: Counters,
    /// Number of resets by the driver.
    resets: AtomicU64,
}

impl Vsock {
    /// The model of a device.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the process has no descriptor left.
    pub fn model(cid: GuestCid, end: HostEnd, label: Option<String>) -> Result<Model> {
        let path = match &end {
            HostEnd::Unix(socket) => Some(socket.path().to_owned()),
            HostEnd::Vhost => None,
        };
        let vsock = Arc::new(Self {
            cid,
            path,
            label,
            config: Arc::new(DeviceConfig::new(cid.get().to_le_bytes().to_vec(), 0..0)),
            counters: Counters::default(),
            resets: AtomicU64::new(0),
        });
        let handler: Box<dyn Handler> = match end {
            HostEnd::Unix(socket) => Box::new(Muxer::new(Arc::clone(&vsock), socket)),
            HostEnd::Vhost => Box::new(VhostLane::new(cid).context("creating an eventfd")?),
        };
        let lanes = vec![LaneModel { queues: vec![RECEIVE, TRANSMIT, EVENT], handler }];
        Ok(Model { device: vsock, lanes })
    }
}

impl Device for Vsock {
    fn identity(&self) -> Identity {
        // Simple communication controller, other.
        Identity { id: VIRTIO_ID_VSOCK as u16, name: "vsock", class: 0x07_8000, label: self.label.clone() }
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn queues(&self) -> &[QueueSize] {
        &QUEUES
    }

    fn config(&self) -> Option<&Arc<DeviceConfig>> {
        Some(&self.config)
    }

    fn interrupt_source(&self) -> InterruptSource {
        match self.path {
            Some(_) => InterruptSource::Software,
            None => InterruptSource::Eventfds,
        }
    }

    /// The lane ends the connections.
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::Release);
    }

    fn report(&self) -> Map<String, Value> {
        // The kernel does not count.
        let mut fields = self.path.as_ref().map_or_else(Map::new, |_| self.counters.report());
        fields.insert("cid".into(), self.cid.get().into());
        fields.insert("vhost".into(), self.path.is_none().into());
        if let Some(path) = &self.path {
            fields.insert("socket".into(), path.to_string_lossy().into());
        }
        fields
    }
}
