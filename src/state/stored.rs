//! A function's state as it is serialized: one variant for each version of the data.
//!
//! Invariant: a variant never changes once a release has written it. A new version is a new variant, and reading an old one
//! upgrades it here, so the rest of the crate knows the newest version only. `tests/state/samples` holds data of each version,
//! which every later version must restore. No I/O and no lock here.

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

/// The newest version is the only one that is written.
impl<S> From<FunctionState<S>> for Stored<S> {
    fn from(FunctionState { registers, pending }: FunctionState<S>) -> Self {
        Self::V1 { registers, pending }
    }
}
