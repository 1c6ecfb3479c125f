//! The errors of a pool and of a parent.

use std::ops::Range;

use super::vector_map::HostVector;
use crate::backend::BackendError;

/// Why no host vector was allocated or reserved. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The device has fewer vectors.
    #[error("the device has {vectors} host vectors: {asked} does not exist")]
    OutOfRange {
        /// The requested vector.
        asked: HostVector,
        /// How many vectors the device has.
        vectors: u32,
    },
    /// The vector has a handle.
    #[error("host vector {asked} is in use")]
    InUse {
        /// The requested vector.
        asked: HostVector,
    },
    /// The vector belongs to another window, or to none, or it is its parent's management vector.
    #[error("host vector {asked} is reserved for others")]
    Reserved {
        /// The requested vector.
        asked: HostVector,
    },
    /// All vectors of the range are reserved or in use.
    #[error("host vectors {} to {} are reserved or in use", .range.start, .range.end.saturating_sub(1))]
    Exhausted {
        /// The range.
        range: Range<u32>,
    },
    /// An earlier owner's interrupt is pending, and the host refused to clear it.
    #[error("the pending interrupt of host vector {asked} could not be cleared: {source}")]
    Unclean {
        /// The requested vector.
        asked: HostVector,
        /// The host's error.
        source: BackendError,
    },
    /// The vector's last handle is dropped, and the host refuses to unbind the vector. That is tried again.
    #[error("host vector {asked} is still bound for its last owner: {source}")]
    Orphaned {
        /// The requested vector.
        asked: HostVector,
        /// The host's error.
        source: BackendError,
    },
}

/// Why a function cannot be the parent of sub-devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParentError {
    /// Its vectors are MSI's, which are allocated as one block. Only vectors of MSI-X and IMS can be shared.
    #[error("the parent's vectors are one block of MSI: a parent needs MSI-X or IMS")]
    NotIndependent,
    /// No function of the device has the capability enabled.
    #[error("the parent's interrupts are disabled")]
    Off,
    /// The host cannot add vectors while the capability is enabled.
    #[error("the parent's host vectors cannot grow while they are in use")]
    CannotGrow,
    /// The management vector is not allocated.
    #[error("the parent's management vector, host vector {expected}, is not allocated")]
    NoManagementVector {
        /// The given management vector.
        expected: HostVector,
    },
}
