//! Why a guest's message is no interrupt: it is none that an APIC could take, or the guest's own remapping table
//! says no.
//!
//! Either is the guest's doing. The vector is held and counted, nothing fails, and it comes alive when the
//! guest has put it right. The fault conditions are those of VT-d (specification r4 §7.3, "Interrupt remapping
//! faults"); other remapping units have fewer.

use crate::apic::InvalidMessage;
use crate::interrupt::RequesterId;
use crate::message::MsiMessage;

/// Why a message is no interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No local APIC could take it.
    #[error(transparent)]
    Invalid(#[from] InvalidMessage),
    /// A remapping unit does not let it through.
    #[error("{message} of {requester} is not remapped: {fault}")]
    Fault {
        /// The function that sent it.
        requester: RequesterId,
        /// What was sent.
        message: MsiMessage,
        /// What the unit found.
        fault: Fault,
    },
}

/// What a remapping unit found wrong with a message, or with the guest's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Bits of the message are set that are reserved.
    #[error("reserved bits are set in it")]
    Reserved,
    /// The message names an entry beyond the table.
    #[error("entry {index} lies beyond the table")]
    Index {
        /// The entry.
        index: u32,
    },
    /// The entry is not present.
    #[error("entry {index} is not present")]
    NotPresent {
        /// The entry.
        index: u32,
    },
    /// The table could not be read: it lies outside of the guest's memory.
    #[error("entry {index} cannot be read")]
    Unreadable {
        /// The entry.
        index: u32,
    },
    /// Bits of the entry are set that are reserved.
    #[error("entry {index} has reserved bits set")]
    Entry {
        /// The entry.
        index: u32,
    },
    /// The message is in compatibility format, which the guest has blocked.
    #[error("compatibility format is blocked")]
    Compatibility,
    /// The entry is another function's.
    #[error("entry {index} is not this function's")]
    Source {
        /// The entry.
        index: u32,
    },
}
