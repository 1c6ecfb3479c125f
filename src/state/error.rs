//! Why a function's state could not be taken, or is none that the function could have.

use crate::delivery::Vector;
use crate::domain::DomainError;

/// A vector's interrupts could not be stopped, so nobody can say what waits. The function runs on as before.
#[derive(Debug, thiserror::Error)]
#[error("vector {vector} is still delivered: {source}")]
pub struct SuspendError {
    /// The vector.
    pub vector: Vector,
    /// What the host said.
    pub source: DomainError,
}

/// A state that is not the function's, with nothing changed; or a function that could not be stopped for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Bits that are fixed for the function, or reserved, are others in the state: it is another function's.
    #[error("{register} is {found:#x} in the state, and {expected:#x} in the function but for writable bits")]
    ReadOnly {
        /// The register's name in the specification.
        register: &'static str,
        /// As the state has it.
        found: u32,
        /// As it is after power-on.
        expected: u32,
    },
    /// Bits are set that the register does not have.
    #[error("{register} of vector {vector} is {found:#x}: reserved bits are set")]
    Reserved {
        /// The register's name in the specification.
        register: &'static str,
        /// Whose it is; 0 where it is the function's.
        vector: Vector,
        /// As the state has it.
        found: u64,
    },
    /// A slot in guest memory is in use in the state, and nowhere.
    #[error("slot {vector} is in use in the state, and has no address")]
    NoAddress {
        /// The slot.
        vector: Vector,
    },
    /// Another number of table entries than the function has.
    #[error("the state has {found} table entries, the function {expected}")]
    TableSize {
        /// The state's.
        found: usize,
        /// The function's.
        expected: usize,
    },
    /// Another number of words of pending bits than the function's vectors need.
    #[error("the state has {found} words of pending bits, the function {expected}")]
    PendingWords {
        /// The state's.
        found: usize,
        /// The function's.
        expected: usize,
    },
    /// A pending bit of a vector that does not exist.
    #[error("vector {vector} is pending in the state, the function has {vectors} vectors")]
    PendingBeyond {
        /// The highest of them.
        vector: Vector,
        /// How many vectors the function has.
        vectors: u32,
    },
    /// The function was in use, and could not be stopped.
    #[error(transparent)]
    Suspend(#[from] SuspendError),
}
