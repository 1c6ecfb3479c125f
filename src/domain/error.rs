//! What the host refused while a vector was on its way.

use std::io;

use crate::backend::BackendError;
use crate::budget::Exhausted;
use crate::delivery::Vector;
use crate::router::RouterError;

/// A host failure, or a budget that is used up. The vector (or the whole window) stays as it was before the step, so no interrupt is lost,
/// and the step is tried again by [`Domain::retry`](super::Domain::retry) or the vector's next
/// change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// The device, or its VM, may not have more host vectors.
    #[error("vector {vector} waits: {source}")]
    Budget {
        /// The vector.
        vector: Vector,
        /// Whose budget, and what is used of it.
        source: Exhausted,
    },
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

/// What there was too little of, where a step was refused: the kind of a [`DomainError`], for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Cause {
    /// The device's or the VM's budget.
    Budget,
    /// Descriptors of the process.
    Descriptors,
    /// The device's side: host vectors.
    Backend,
    /// The interrupt controllers' side: routes, irqfds.
    Router,
}

impl DomainError {
    /// What there was too little of.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Budget { .. } => Cause::Budget,
            Self::Eventfd { .. } | Self::Relay { .. } => Cause::Descriptors,
            Self::Backend(_) => Cause::Backend,
            Self::Router(_) => Cause::Router,
        }
    }
}
