//! A device model: its identity, features and configuration, and the handlers of its queues. A model knows neither the
//! bus nor the ring.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::device_config::DeviceConfig;
use super::handler::Handler;
use super::interrupts::InterruptSource;
use super::queue::{QueueIndex, QueueSize};

/// The identity of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The virtio device ID (virtio 1.2 §5), below 0x40.
    pub id: u16,
    /// Its kind, in reports and messages.
    pub name: &'static str,
    /// The PCI class code, 24 bits: class, subclass, programming interface.
    pub class: u32,
    /// The name that a person has given to it.
    pub label: Option<String>,
}

/// The part of a device model that all threads share.
pub trait Device: Send + Sync {
    /// The device's identity.
    fn identity(&self) -> Identity;

    /// The device-specific feature bits. The transport adds its own.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each of its queues.
    fn queues(&self) -> &[QueueSize];

    /// The device-specific configuration, if there is one.
    fn config(&self) -> Option<&Arc<DeviceConfig>> {
        None
    }

    /// The driver has written `len` bytes of writable configuration at `offset`. The registers are locked.
    fn config_written(&self, _offset: u64, _len: usize) {}

    /// The driver has reset the device. The registers are locked, and chains may still be in flight.
    fn reset(&self) {}

    /// What raises its interrupts.
    fn interrupt_source(&self) -> InterruptSource {
        InterruptSource::Software
    }

    /// The model's part of the report.
    fn report(&self) -> Map<String, Value>;
}

/// Queues that one thread serves, by one handler.
pub struct LaneModel {
    /// The queues. Each queue of the device is in exactly one lane.
    pub queues: Vec<QueueIndex>,
    /// Their handler.
    pub handler: Box<dyn Handler>,
}

/// A device model.
pub struct Model {
    /// The part that all threads share.
    pub device: Arc<dyn Device>,
    /// A handler for each thread.
    pub lanes: Vec<LaneModel>,
}
