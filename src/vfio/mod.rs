//! The backends over VFIO: a passed-through device's vectors, requested of the host one by one.
//!
//! Owns the device's MSI and MSI-X interrupt indices: nobody else may call VFIO_DEVICE_SET_IRQS on them. The
//! kernel lets one of the two be on at a time; the other is refused meanwhile, and tried again.
//!
//! Locking: none of its own; a domain calls it under the domain's lock. The kernel serialises the calls on one
//! device, and each may sleep for milliseconds.

mod msi;
mod msix;
mod set_irqs;

use std::io;

pub use msi::VfioMsi;
pub use msix::VfioMsix;

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
    /// The host could not turn a device's interrupts on and off again.
    #[error("the host does not turn the device's interrupts on and off: {0}")]
    Probe(#[source] io::Error),
}

/// ENOSPC.
const NO_SPACE: i32 = 28;
