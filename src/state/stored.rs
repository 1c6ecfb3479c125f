//! The serialized form of a function's state: one variant for each version of the data.
//!
//! Invariant: a variant never changes once a release has written it. A new version is a new variant. Older
//! versions are upgraded here while they are read, so the rest of the crate knows only the newest.
//! `tests/state/samples` has data of each version, which every later version must restore. No I/O and no
//! lock.

use serde::{Deserialize, Serialize};

use super::{FunctionState, PendingBits};

/// The data of a [`FunctionState`], preceded by its version.
#[derive(Deserialize, Serialize)]
#[serde(rename = "FunctionState", rename_all = "lowercase")]
pub(super) enum Stored<S> {
    /// The first version.
    V1 { registers: S, pending: PendingBits },
}

/// The upgrade of each version to the newest one.
impl<S> From<Stored<S>> for FunctionState<S> {
    fn from(stored: Stored<S>) -> Self {
        match stored {
            Stored::V1 { registers, pending } => Self { registers, pending },
        }
    }
}

/// Only the newest version is written.
impl<S> From<FunctionState<S>> for Stored<S> {
    fn from(FunctionState { registers, pending }: FunctionState<S>) -> Self {
        Self::V1 { registers, pending }
    }
}
