//! The console device (virtio 1.2 §5.3) with one port, which is the guest's hvc0.
//!
//! [`Console`] owns identity, configuration and report. `port` moves the bytes, in one lane for both queues. [`size`] tells
//! the driver of a terminal that has another size.

mod port;
pub mod size;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::device::{Device, Identity, LaneModel, Model};
use super::device_config::DeviceConfig;
use super::queue::{QueueIndex, QueueSize};
use crate::outcome::ExitEvent;
use crate::serial::input::Source;
use port::Port;
use size::Size;

/// VIRTIO_CONSOLE_F_SIZE: the configuration has the console's size.
const F_SIZE: u64 = 1 << 0;
const RECEIVE: QueueIndex = QueueIndex(0);
const TRANSMIT: QueueIndex = QueueIndex(1);
const QUEUES: [QueueSize; 2] = [QueueSize::two_to_the(6); 2];

/// The ends of a console in the host.
#[derive(Debug)]
pub struct Ends {
    /// What is typed.
    pub input: OwnedFd,
    /// What is shown.
    pub output: OwnedFd,
    /// The kind of input.
    pub source: Source,
}

/// The part of a console that its lane and the report share.
#[derive(Debug)]
pub struct Console {
    config: Arc<DeviceConfig>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Console {
    /// The model of a console, and its configuration, which has the size.
    #[must_use]
    pub fn model(ends: Ends, size: Size, exit_event: Arc<ExitEvent>) -> (Model, Arc<DeviceConfig>) {
        let config = Arc::new(DeviceConfig::new(size.to_config().to_vec(), 0..0));
        let device = Arc::new(Self {
            config: Arc::clone(&config),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        let handler = Box::new(Port::new(Arc::clone(&device), ends, exit_event));
        let lanes = vec![LaneModel { queues: vec![RECEIVE, TRANSMIT], handler }];
        (Model { device, lanes }, config)
    }
}

impl Device for Console {
    fn identity(&self) -> Identity {
        // Simple communication controller, other.
        Identity { id: VIRTIO_ID_CONSOLE as u16, name: "console", class: 0x07_8000, label: None }
    }

    fn features(&self) -> u64 {
        F_SIZE
    }

    fn queues(&self) -> &[QueueSize] {
        &QUEUES
    }

    fn config(&self) -> Option<&Arc<DeviceConfig>> {
        Some(&self.config)
    }

    fn report(&self) -> Map<String, Value> {
        [("received_bytes", &self.received), ("sent_bytes", &self.sent)]
            .map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed).into()))
            .into_iter()
            .collect()
    }
}
