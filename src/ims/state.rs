//! Slots as plain data, and the way back: any data at all is either refused, or what a store of the given layout
//! could have.

use super::array::SlotArray;
use super::layout::SlotArrayLayout;
use super::slot::Slot;
use crate::delivery::Vector;
use crate::message::MsiMessage;
use crate::state::RestoreError;

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

impl SlotArray {
    pub(super) fn to_state(&self) -> SlotArrayState {
        let slot = |slot: &Slot| SlotState { message: slot.message(), control: slot.control() };
        SlotArrayState { slots: self.slots().iter().map(slot).collect() }
    }

    pub(super) fn try_from_state(
        layout: &SlotArrayLayout,
        state: &SlotArrayState,
    ) -> Result<Self, RestoreError> {
        let (found, expected) = (state.slots.len(), layout.slots.get() as usize);
        if found != 0 && found != expected {
            return Err(RestoreError::TableSize { found, expected });
        }
        let slot = |(vector, state): (Vector, &SlotState)| {
            if layout.control.written(state.control) == state.control {
                Ok(Slot::new(state.message, state.control))
            } else {
                Err(RestoreError::Reserved { register: "Control", vector, found: state.control.into() })
            }
        };
        let slots: Result<Vec<Slot>, RestoreError> = (0..).map(Vector).zip(&state.slots).map(slot).collect();
        Ok(Self::of_slots(*layout, slots?))
    }
}
