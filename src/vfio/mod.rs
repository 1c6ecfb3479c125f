//! The backends over VFIO: a passed-through device's vectors, requested of the host one by one.
//!
//! Owns the device's MSI and MSI-X interrupt indices: nobody else may call VFIO_DEVICE_SET_IRQS on them. The kernel lets one
//! index be enabled at a time. Enabling another one is refused meanwhile, and the domain tries again.
//!
//! [`VfioMsi`] and [`VfioMsix`] put their rules on top of one `Vectors`, which puts its own on top of `IrqCalls`: the two
//! ioctls. `TableMapping` lets the kernel read the device's own table.
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
    /// The descriptor is none of a VFIO PCI device, or the device is gone.
    #[error("VFIO_DEVICE_GET_IRQ_INFO failed: {0}")]
    Info(#[source] io::Error),
    /// The device has no such interrupts.
    #[error("the device has no such vectors")]
    NoVectors,
    /// The device asks for fewer MSI messages than it was to have.
    #[error("{messages} messages are more than the {asked} that the device asks for")]
    TooManyMessages {
        /// How many it was to have.
        messages: u32,
        /// How many it asks for.
        asked: u32,
    },
    /// The host did not enable MSI, or did not disable it again.
    #[error("the host does not enable and disable MSI: {0}")]
    Probe(#[source] io::Error),
}
