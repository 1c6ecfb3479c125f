//! Why a guest's message is not an interrupt: no APIC accepts it, or the guest's own remapping table refuses
//! it.
//!
//! Both are the guest's mistakes. The vector is held and counted, and becomes live after the guest has
//! corrected its message or its table. Nothing has failed in the host. The fault conditions are those of VT-d
//! (specification r4 §7.3, "Interrupt remapping faults"). Other remapping units have fewer.

use crate::apic::InvalidMessage;
use crate::interrupt::RequesterId;
use crate::message::MsiMessage;

/// Why a message is not an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No local APIC accepts it.
    #[error(transparent)]
    Invalid(#[from] InvalidMessage),
    /// The remapping unit does not let it through.
    #[error("{message} of {requester} was refused by the remapping unit: {fault}")]
    Fault {
        /// The function that sends the message.
        requester: RequesterId,
        /// The message.
        message: MsiMessage,
        /// The fault that the unit found.
        fault: Fault,
    },
}

/// The fault of a message, or of its entry in the guest's remapping table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Reserved bits of the message are set.
    #[error("the message has reserved bits set")]
    Reserved,
    /// The message names an entry beyond the table.
    #[error("entry {index} is beyond the table")]
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
    /// The entry is outside of the guest's memory.
    #[error("entry {index} cannot be read")]
    Unreadable {
        /// The entry.
        index: u32,
    },
    /// Reserved bits of the entry are set.
    #[error("entry {index} has reserved bits set")]
    Entry {
        /// The entry.
        index: u32,
    },
    /// The message is in compatibility format, and the guest has blocked this format.
    #[error("the guest has blocked compatibility format")]
    Compatibility,
    /// The entry is for another function.
    #[error("entry {index} is for another function")]
    Source {
        /// The entry.
        index: u32,
    },
}
