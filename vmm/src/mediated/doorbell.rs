//! The part of a mediated device that differs from one physical device to the next: how to ring it.
//!
//! Another physical device needs another file and a line in `find_doorbell` of `open.rs`.

use vm_msi::pool::HostVector;

/// How a device's queues are made to work.
pub trait Doorbell: Send + Sync {
    /// What device it is, in reports.
    fn name(&self) -> &'static str;

    /// Has a queue of the device that uses this host vector do its work: the device signals the vector once, some time
    /// after.
    fn ring(&self, vector: HostVector);
}

/// Why a device's queues cannot be rung.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DoorbellError {
    /// Nothing is known of the device.
    #[error(
        "how device {vendor:04x}:{device:04x} is rung is not known; known is 1af4:1110 (ivshmem-doorbell)"
    )]
    Unknown {
        /// Its vendor ID.
        vendor: u16,
        /// Its device ID.
        device: u16,
    },
    /// The registers are not where they should be.
    #[error("it has no BAR {bar}")]
    NoBar {
        /// The BAR that has them.
        bar: usize,
    },
    /// It has not been told yet who it is.
    #[error("it is not connected to its server")]
    NotConnected,
}
