//! Slots as plain data, and the way back: any data at all is either refused, or what a store of the given layout
//! could have.

use vm_memory::GuestAddress;

use super::array::Slots;
use super::layout::{QueueLayout, SlotArrayLayout};
use super::place::Place;
use super::queue::Queue;
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

impl Slots {
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

/// Slots in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QueueState {
    /// Where each slot is; none where the guest has not placed any since the last reset.
    pub addresses: Vec<Option<u64>>,
    /// The slots as they were last read.
    pub copies: SlotArrayState,
}

impl Queue {
    pub(super) fn to_state(&self) -> QueueState {
        let address = |place: &Option<Place>| place.map(|place| place.address().0);
        QueueState {
            addresses: self.places().iter().map(address).collect(),
            copies: self.copies().to_state(),
        }
    }

    pub(super) fn try_from_state(layout: &QueueLayout, state: &QueueState) -> Result<Self, RestoreError> {
        let QueueState { addresses, copies } = state;
        let (found, expected) = (addresses.len(), layout.slots.get() as usize);
        if found != 0 && found != expected {
            return Err(RestoreError::TableSize { found, expected });
        }
        let place = |(vector, address): (Vector, &Option<u64>)| match address.map(GuestAddress) {
            None => Ok(None),
            Some(address) => Place::new(address).map(Some).ok_or(RestoreError::Reserved {
                register: "Address",
                vector,
                found: address.0,
            }),
        };
        let places: Result<Vec<_>, RestoreError> = (0..).map(Vector).zip(addresses).map(place).collect();
        let (places, copies) = (places?, Slots::try_from_state(&layout.copies(), copies)?);
        // What was never read, or is no longer in force, is as after a reset.
        let unread = Slot::reset(layout.control);
        let is_placed = places.iter().map(Option::is_some).chain(std::iter::repeat(false));
        let mut copied = (0..).map(Vector).zip(copies.slots()).zip(is_placed);
        match copied.find(|((_, slot), is_placed)| !is_placed && **slot != unread) {
            Some(((vector, _), _)) => Err(RestoreError::Unplaced { vector }),
            None => Ok(Self::of_parts(places, copies)),
        }
    }
}
