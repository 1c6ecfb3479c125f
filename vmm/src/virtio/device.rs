//! What a device model says of itself, and how it serves its driver's requests. It knows of no bus and no ring.

use serde_json::{Map, Value};

use super::queue::{QueueIndex, QueueSize, Request};

/// What a device is.
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
    /// What it is.
    fn identity(&self) -> Identity;

    /// The feature bits of its own that it offers; those of rings and transport are not its affair.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each of its queues.
    fn queues(&self) -> &[QueueSize];

    /// Its configuration as the driver reads it; it has none if this is empty.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// Serves one request, and answers how many bytes it wrote into the driver's buffers. It is called with the
    /// device's registers locked: no request may take long, or wait for anything.
    fn serve(&self, queue: QueueIndex, request: Request<'_>) -> u32;

    /// Its part of the report.
    fn report(&self) -> Map<String, Value>;
}
