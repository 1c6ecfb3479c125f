//! The slots of a store as plain data. Restoring refuses data that no store of the layout could have.

use crate::message::MsiMessage;

/// The slots of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SlotArrayState {
    /// All slots, or none if the guest has not written to any since the last reset.
    pub slots: Vec<SlotState>,
}

/// A slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SlotState {
    /// Address and data.
    pub message: MsiMessage,
    /// The control DWORD, without its pending bit.
    pub control: u32,
}

/// Slots in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QueueState {
    /// The address of each slot. Empty if the guest has not set any since the last reset.
    pub addresses: Vec<Option<u64>>,
    /// The copies of the slots that are in force.
    pub copies: SlotArrayState,
}
