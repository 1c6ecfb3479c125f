//! What the host refused while a vector was on its way.

use std::io;

use crate::backend::BackendError;
use crate::delivery::Vector;
use crate::router::RouterError;

/// A host failure. The vector (or the whole window) stays as it was before the step, so no interrupt is lost,
/// and the step is tried again by [`Domain::retry`](super::Domain::retry) or the vector's next
/// change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// No eventfd to be had; usually the limit on open files.
    #[error("no eventfd for vector {vector}: {source}")]
    Eventfd {
        /// The vector.
        vector: Vector,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A vector without a route could not be watched in userspace either.
    #[error("vector {vector} cannot be delivered from userspace: {source}")]
    Relay {
        /// The vector.
        vector: Vector,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The device's side.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The interrupt controllers' side.
    #[error(transparent)]
    Router(#[from] RouterError),
}
