//! The backends over VFIO: a passed-through device's vectors, requested of the host one by one.
//!
//! Owns the device's MSI and MSI-X interrupt indices: an embedder must not call VFIO_DEVICE_SET_IRQS on them. The kernel lets one
//! index be enabled at a time. It refuses to enable another one meanwhile, and the domain tries again.
//!
//! [`VfioMsi`] and [`VfioMsix`] are built on `Vectors`, the vectors of one index, which is built on `IrqCalls`, the two ioctls.
//! `TableMapping` lets the kernel read the device's own table.
//!
//! Locking: none of its own; a domain calls it under the domain's lock. The kernel serialises the calls on one device, and
//! each may sleep for milliseconds.

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
    #[error("the device has no such vectors")]
    NoVectors,
    /// The device asks for fewer MSI messages than the embedder wants to give it.
    #[error("{messages} messages are more than the {asked} that the device asks for")]
    TooManyMessages {
        /// How many messages the embedder wants to give it.
        messages: u32,
        /// How many messages the device asks for.
        asked: u32,
    },
    /// The host did not enable MSI, or did not disable it again.
    #[error("the host does not enable and disable MSI: {0}")]
    Probe(#[source] io::Error),
}
