//! The slots of a store as plain data. The stores refuse data that no store of their layout could have.

use crate::message::MsiMessage;

/// The slots of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SlotArrayState {
    /// All of them, or none where the guest has not written to any since the last reset.
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
    /// Where each slot is; none where the guest has not placed any since the last reset.
    pub addresses: Vec<Option<u64>>,
    /// The slots as they were last read.
    pub copies: SlotArrayState,
}
