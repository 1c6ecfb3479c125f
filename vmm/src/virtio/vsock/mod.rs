//! The socket device (virtio 1.2 §5.10): streams between ports of the guest and Unix sockets of the host.
//!
//! | part | owns |
//! |---|---|
//! | [`Vsock`] | identity, configuration, report |
//! | `muxer` | the lane: packets of all connections |
//! | `connection` | one stream: its socket, its backlog, and what the guest is still to be told |
//! | `credit` | flow control |
//! | [`host`] | the Unix sockets |
//! | `packet` | headers |
//!
//! One lane serves all queues, without a lock. Invariants: a byte is read from the host only if the guest has room for it, and
//! each connection buffers at most 64 KiB of the guest's. The number of connections is limited. A packet that breaks a
//! rule costs its connection, and nothing else.

mod connection;
mod counters;
mod credit;
pub mod host;
mod muxer;
mod packet;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::device::{Device, Identity, LaneModel, Model};
use super::device_config::DeviceConfig;
use super::queue::{QueueIndex, QueueSize};
use counters::Counters;
use host::HostSocket;
use muxer::Muxer;

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

/// The part of a device that its lane and the report share.
#[derive(Debug)]
pub struct Vsock {
    cid: GuestCid,
    path: PathBuf,
    label: Option<String>,
    config: Arc<DeviceConfig>,
    counters: Counters,
    /// Number of resets by the driver.
    resets: AtomicU64,
}

impl Vsock {
    /// The model of a device whose host end is this socket.
    #[must_use]
    pub fn model(cid: GuestCid, socket: HostSocket, label: Option<String>) -> Model {
        let vsock = Arc::new(Self {
            cid,
            path: socket.path().to_owned(),
            label,
            config: Arc::new(DeviceConfig::new(cid.get().to_le_bytes().to_vec(), 0..0)),
            counters: Counters::default(),
            resets: AtomicU64::new(0),
        });
        let handler = Box::new(Muxer::new(Arc::clone(&vsock), socket));
        Model { device: vsock, lanes: vec![LaneModel { queues: vec![RECEIVE, TRANSMIT, EVENT], handler }] }
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

    /// The lane ends the connections.
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::Release);
    }

    fn report(&self) -> Map<String, Value> {
        let mut fields = self.counters.report();
        fields.insert("cid".into(), self.cid.get().into());
        fields.insert("socket".into(), self.path.to_string_lossy().into());
        fields
    }
}
