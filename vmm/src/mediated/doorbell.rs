//! The interface to ring the queues of a physical device. A new device needs a file and a line in
//! [`open`](super::open).

use vm_msi::pool::HostVector;

/// Rings the queues of a device.
pub trait Doorbell: Send + Sync {
    /// The device's name in reports.
    fn name(&self) -> &'static str;

    /// Rings the queue that uses this host vector. The device signals the vector once, some time later.
    fn ring(&self, vector: HostVector);
}

/// Why a device's queues cannot be rung.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DoorbellError {
    /// The device is not supported.
    #[error(
        "the doorbell of device {vendor:04x}:{device:04x} is not known; supported is 1af4:1110 (ivshmem-doorbell)"
    )]
    Unknown {
        /// Its vendor ID.
        vendor: u16,
        /// Its device ID.
        device: u16,
    },
    /// The BAR with the registers is missing.
    #[error("it has no BAR {bar}")]
    NoBar {
        /// The BAR.
        bar: usize,
    },
    /// The device has no ID yet.
    #[error("it has no ID yet: it is not connected to its server")]
    NotConnected,
}
