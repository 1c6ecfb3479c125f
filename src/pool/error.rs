//! Why a pool gives no host vector, and why a function cannot be a parent.

use std::ops::Range;

use super::host_vector::HostVector;
use crate::backend::BackendError;

/// Why no host vector was given. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The device has fewer vectors.
    #[error("the device has {vectors} host vectors: {asked} is not among them")]
    OutOfRange {
        /// The one that was asked for.
        asked: HostVector,
        /// How many the device has.
        vectors: u32,
    },
    /// It is somebody's.
    #[error("host vector {asked} is in use")]
    InUse {
        /// The one that was asked for.
        asked: HostVector,
    },
    /// It may be given, but not to the one who asks: it is in another window, in one and asked for outside, outside
    /// of the one that was asked, or its parent's management vector.
    #[error("host vector {asked} is reserved for others")]
    Reserved {
        /// The one that was asked for.
        asked: HostVector,
    },
    /// All that may be given are in use.
    #[error("every host vector of {} to {} that may be given is in use", .among.start, .among.end)]
    Exhausted {
        /// Where one was looked for: from the first to before the second.
        among: Range<u32>,
    },
    /// An interrupt waits for it that is nobody's, and could not be taken away.
    #[error("host vector {asked} could not be cleared of what waits for it: {source}")]
    Unclean {
        /// The one that was asked for.
        asked: HostVector,
        /// The host's reason.
        source: BackendError,
    },
    /// Its last holder has gone, and the host has not taken it back yet. It is tried again.
    #[error("host vector {asked} is not given back yet: {source}")]
    Orphaned {
        /// The one that was asked for.
        asked: HostVector,
        /// The host's reason.
        source: BackendError,
    },
}

/// Why a function cannot be the parent of sub-devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParentError {
    /// Its vectors are MSI's, which come as one block: only those of MSI-X and IMS can be handed on.
    #[error("the parent's vectors are one block: a parent needs MSI-X or IMS")]
    NotIndependent,
    /// Nobody has turned its MSI-X on.
    #[error("the parent's interrupts are off")]
    Off,
    /// Its host gives no vectors after its MSI-X was turned on.
    #[error("the parent's host vectors cannot grow while they are in use")]
    CannotGrow,
    /// It has no management vector of its own yet.
    #[error("the parent has no management vector: nobody holds host vector {expected}")]
    NoManagementVector {
        /// The one that it was said to be.
        expected: HostVector,
    },
}
