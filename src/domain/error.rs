//! The host's refusals, as a domain reports them.

use std::io;

use crate::backend::BackendError;
use crate::budget::Exhausted;
use crate::delivery::Vector;
use crate::router::RouterError;

/// A host failure, or a budget that is used up.
///
/// The vector, or the whole window, stays as it was before the step, so no interrupt is lost. The step is tried again by
/// [`Domain::retry`](super::Domain::retry) or at the vector's next change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// The budget of the device or of its VM is used up.
    #[error("vector {vector} waits: {source}")]
    Budget {
        /// The vector.
        vector: Vector,
        /// Which budget, and how much of it is used.
        source: Exhausted,
    },
    /// The host gave no eventfd, usually because of the limit on open files.
    #[error("no eventfd for vector {vector}: {source}")]
    Eventfd {
        /// The vector.
        vector: Vector,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A vector without a route could not be added to the relay's epoll set.
    #[error("vector {vector} cannot be delivered from userspace: {source}")]
    Relay {
        /// The vector.
        vector: Vector,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The device's backend refused a step.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The router refused a step.
    #[error(transparent)]
    Router(#[from] RouterError),
}

/// The kind of a [`DomainError`], for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Cause {
    /// The device's or the VM's budget.
    Budget,
    /// Descriptors of the process.
    Descriptors,
    /// Host vectors of the device.
    Backend,
    /// Routes or irqfds.
    Router,
}

impl DomainError {
    /// The kind of the error.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Budget { .. } => Cause::Budget,
            Self::Eventfd { .. } | Self::Relay { .. } => Cause::Descriptors,
            Self::Backend(_) => Cause::Backend,
            Self::Router(_) => Cause::Router,
        }
    }
}
