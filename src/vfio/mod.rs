//! The backends over VFIO: the vectors of a passed-through device, which are requested from the host one by
//! one.
//!
//! Owns the device's MSI and MSI-X interrupt indices: an embedder must not call VFIO_DEVICE_SET_IRQS on them.
//! The kernel allows one enabled index at a time. It refuses to enable another one meanwhile, and the domain
//! tries again.
//!
//! [`VfioMsi`] and [`VfioMsix`] are built on `Vectors`, the vectors of one index, which is built on
//! `IrqCalls`, the two ioctls. `TableMapping` lets the kernel read the device's own table.
//!
//! Locking: none of its own. A domain calls the backends under the domain's lock. The kernel serialises the
//! calls on one device, and each may sleep for milliseconds.

#[cfg(test)]
mod fake_host;
mod msi;
mod msix;
mod set_irqs;
mod table_mapping;
mod vectors;

use std::io;

pub use msi::VfioMsi;
pub use msix::{MsixFileOffsets, VfioMsix};

/// Why a VFIO device cannot be a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioError {
    /// The descriptor is not a VFIO PCI device's, or the device is gone.
    #[error("VFIO_DEVICE_GET_IRQ_INFO failed: {0}")]
    Info(#[source] io::Error),
    /// The device does not have MSI, or MSI-X.
    #[error("the device has no vectors of this kind")]
    NoVectors,
    /// The device supports fewer MSI messages than the embedder wants to give it.
    #[error("{messages} messages are more than the {asked} that the device supports")]
    TooManyMessages {
        /// How many messages the embedder wants to give it.
        messages: u32,
        /// How many messages the device supports.
        asked: u32,
    },
    /// The host refused to enable MSI, or to disable it again.
    #[error("the host refused to enable or disable MSI: {0}")]
    Probe(#[source] io::Error),
}
