//! The interface of a device model: identity, features, and requests. A model knows neither the bus nor the ring.

use serde_json::{Map, Value};

use super::queue::{QueueIndex, QueueSize, Request};

/// The identity of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The virtio device ID (virtio 1.2 §5), below 0x40.
    pub id: u16,
    /// Its name in reports and messages.
    pub name: &'static str,
    /// The PCI class code, 24 bits: class, subclass, programming interface.
    pub class: u32,
}

/// A device model.
pub trait Device: Send + Sync {
    /// The device's identity.
    fn identity(&self) -> Identity;

    /// The device-specific feature bits. The transport adds its own.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each of its queues.
    fn queues(&self) -> &[QueueSize];

    /// The device-specific configuration. Empty if there is none.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// Serves one request and returns the number of bytes written to the driver's buffers. The device's registers are
    /// locked during the call, so it must not block.
    fn serve(&self, queue: QueueIndex, request: Request<'_>) -> u32;

    /// The model's part of the report.
    fn report(&self) -> Map<String, Value>;
}
