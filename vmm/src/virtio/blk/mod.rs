//! The block device (virtio 1.2 §5.2): raw images and block devices of the host, one lane a queue.
//!
//! | part | owns |
//! |---|---|
//! | `image` | the file: checks before the guest starts, its lock, its size |
//! | `geometry` | features and configuration |
//! | `request` | a request as the driver wrote it, checked |
//! | `operation` | a host operation with its buffers, while it is in flight |
//! | `engine` | operations in flight: `uring`, or `threads` where the host has no io_uring |
//! | `queue` | the handler of a queue |
//!
//! Data is in the host's page cache, and FLUSH is fdatasync(2). A flush covers the writes that were completed before it
//! was requested (§5.2.6.2), so operations in flight need no order among each other. If the driver has not negotiated
//! FLUSH, or has turned the write cache off, each write is durable when it is completed (RWF_DSYNC).
//!
//! No lock is taken for a request. Host errors are VIRTIO_BLK_S_IOERR, ENOSPC of a sparse image among them.

#[cfg(any(test, feature = "fuzzing"))]
mod by_caller;
pub(in crate::virtio) mod engine;
mod geometry;
mod image;
pub(in crate::virtio) mod operation;
mod queue;
mod request;
mod threads;
mod uring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use self::engine::{Engine, EngineKind, engine};
pub use self::image::{DiskImage, ImageAccess};
use self::operation::{Iovecs, Kind, Operation};
use self::queue::DiskQueue;
use super::device::{Device, Identity, LaneModel, Model};
use super::device_config::DeviceConfig;
use super::queue::{QueueIndex, QueueSize};
use crate::error::Result;

/// Size of each queue.
const QUEUE_SIZE: QueueSize = QueueSize::two_to_the(8);

/// The largest number of queues.
pub const MOST_QUEUES: u16 = 64;

/// A disk, as all of its queues share it.
#[derive(Debug)]
pub struct Disk {
    image: DiskImage,
    name: String,
    engine: EngineKind,
    queues: Vec<QueueSize>,
    config: Arc<DeviceConfig>,
    counters: Counters,
}

/// Requests by kind, and bytes. They never decrease.
#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    zeroes: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    /// Requests that the host has refused.
    host_errors: AtomicU64,
    /// Requests that the device has refused.
    refused: AtomicU64,
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

impl Disk {
    /// A disk with this many queues, at most [`MOST_QUEUES`]. `name` is what the guest reads as its serial number, up to 20
    /// bytes.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host has no descriptor or thread for a queue.
    pub fn model(image: DiskImage, name: String, queues: u16) -> Result<Model> {
        let engine = EngineKind::probe();
        let queues = 0..queues.clamp(1, MOST_QUEUES);
        let engines = queues.map(|_| self::engine(engine, QUEUE_SIZE.get(), image.file()));
        let engines = engines.collect::<Result<_>>()?;
        Ok(Self::with_engines(image, name, engine, engines))
    }

    fn operation(&self, kind: Kind, offset: u64, len: u64, iovecs: Iovecs) -> Operation {
        Operation { kind, offset, len, iovecs, file: Arc::clone(self.image.file()) }
    }

    /// A disk with a queue for each of these engines.
    pub(super) fn with_engines(
        image: DiskImage,
        name: String,
        engine: EngineKind,
        engines: Vec<Box<dyn Engine>>,
    ) -> Model {
        let count = u16::try_from(engines.len()).unwrap_or(u16::MAX);
        tracing::info!(
            "disk {name} is {} of {} sectors, by {engine}",
            image.path().display(),
            image.sectors()
        );
        let config = Arc::new(geometry::config(&image, count));
        let queues = vec![QUEUE_SIZE; count.into()];
        let disk = Arc::new(Self { image, name, engine, queues, config, counters: Counters::default() });
        let lanes = engines.into_iter().zip(0..count).map(|(engine, index)| LaneModel {
            queues: vec![QueueIndex(index)],
            handler: Box::new(DiskQueue::new(Arc::clone(&disk), engine)),
        });
        let lanes = lanes.collect();
        Model { device: disk, lanes }
    }
}

impl Device for Disk {
    fn identity(&self) -> Identity {
        // Class 0x0180: other mass storage controller.
        let label = Some(self.name.clone());
        Identity { id: VIRTIO_ID_BLOCK as u16, name: "blk", class: 0x01_8000, label }
    }

    fn features(&self) -> u64 {
        geometry::features(&self.image, self.queues.len())
    }

    fn queues(&self) -> &[QueueSize] {
        &self.queues
    }

    fn config(&self) -> Option<&Arc<DeviceConfig>> {
        Some(&self.config)
    }

    fn report(&self) -> Map<String, Value> {
        let counters = &self.counters;
        let counters = [
            ("reads", &counters.reads),
            ("writes", &counters.writes),
            ("flushes", &counters.flushes),
            ("discards", &counters.discards),
            ("write_zeroes", &counters.zeroes),
            ("read_bytes", &counters.read_bytes),
            ("written_bytes", &counters.written_bytes),
            ("host_errors", &counters.host_errors),
            ("refused", &counters.refused),
        ];
        let counters = counters.map(|(name, count)| (name, Value::from(count.load(Ordering::Relaxed))));
        let fields = [
            ("path", self.image.path().display().to_string().into()),
            ("sectors", self.image.sectors().into()),
            ("read_only", (self.image.access() == ImageAccess::ReadOnly).into()),
            ("engine", self.engine.to_string().into()),
        ];
        fields.into_iter().chain(counters).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
