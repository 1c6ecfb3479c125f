//! Why a function could not be suspended, or a state could not be restored.

use crate::delivery::Vector;
use crate::domain::DomainError;

/// The delivery of a vector's interrupts could not be stopped, so its pending bit is unknown. The function is
/// not suspended.
#[derive(Debug, thiserror::Error)]
#[error("vector {vector} is still delivered: {source}")]
pub struct SuspendError {
    /// The vector.
    pub vector: Vector,
    /// The host's error.
    pub source: DomainError,
}

/// Why a state was not restored. The function has not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Read-only or reserved bits differ from the function's: the state is of another function.
    #[error(
        "{register} is {found:#x} in the state, and {expected:#x} in the function apart from writable bits"
    )]
    ReadOnly {
        /// The register's name in the specification.
        register: &'static str,
        /// The value in the state.
        found: u32,
        /// The function's value after power-on.
        expected: u32,
    },
    /// Reserved bits are set.
    #[error("{register} of vector {vector} is {found:#x}: reserved bits are set")]
    Reserved {
        /// The register's name in the specification.
        register: &'static str,
        /// The vector that the register belongs to; 0 for a register of the function.
        vector: Vector,
        /// The value in the state.
        found: u64,
    },
    /// A slot in guest memory is in use in the state, but has no address.
    #[error("slot {vector} is in use in the state, but has no address")]
    NoAddress {
        /// The slot.
        vector: Vector,
    },
    /// The state has another number of table entries than the function.
    #[error("the state has {found} table entries, the function has {expected}")]
    TableSize {
        /// Entries in the state.
        found: usize,
        /// Entries of the function.
        expected: usize,
    },
    /// The state has another number of words of pending bits than the function.
    #[error("the state has {found} words of pending bits, the function has {expected}")]
    PendingWords {
        /// Words in the state.
        found: usize,
        /// Words of the function.
        expected: usize,
    },
    /// A pending bit of a vector that the function does not have is set.
    #[error("vector {vector} is pending in the state, but the function has only {vectors} vectors")]
    PendingBeyond {
        /// The highest such vector.
        vector: Vector,
        /// How many vectors the function has.
        vectors: u32,
    },
    /// The function was in use and could not be suspended.
    #[error(transparent)]
    Suspend(#[from] SuspendError),
}
