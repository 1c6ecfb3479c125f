//! How a guest gets at its slots: the one thing in which kinds of store differ.

use std::fmt::Debug;

use super::slots::{Slots, message};
use crate::domain::DeviceDomain;
use crate::function::Function;
use crate::ims::{ControlFormat, SlotArray, SlotArrayLayout, SlotCount};
use crate::registers::Registers;
use crate::testing::{FakeBackend, FakeRouter};

/// A function of the run.
pub type ImsUnderTest<S> = Function<S, DeviceDomain<FakeRouter, FakeBackend>>;

/// A guest's driver of one kind of store, and what it has beside the slots.
pub trait SlotDriver: Clone + Debug {
    /// The store.
    type Store: Registers;
    /// What the driver does with it.
    type Access;

    /// After power-on.
    fn new() -> Self;

    /// The store's shape.
    fn layout(slots: SlotCount, control: ControlFormat) -> <Self::Store as Registers>::Layout;

    /// Does it, and tells the model what is in force then.
    fn perform(&mut self, access: &Self::Access, slots: &mut Slots, function: &ImsUnderTest<Self::Store>);

    /// The function was reset.
    fn reset(&mut self);

    /// The function has gone to another VM, whose counters begin anew.
    fn moved(&mut self) {}

    /// The slots that are in force, as the guest can see them.
    fn read(function: &ImsUnderTest<Self::Store>, data: &mut [u8]);

    /// Checks what is this kind's alone.
    fn check(&self, _function: &ImsUnderTest<Self::Store>) {}
}

/// What a driver does with an array. Slots are taken modulo the array's size.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum ArrayAccess {
    /// It writes a slot's message: its own APIC, and this version of it; 0 for none.
    Message {
        /// The slot.
        slot: u16,
        /// Which of several messages of the slot's own.
        version: u8,
    },
    /// It writes a slot's control DWORD.
    Control {
        /// The slot.
        slot: u16,
        /// Masked, where there is a mask bit.
        masked: bool,
        /// Its PASID, where there is a place for one; 0 for none.
        pasid: u8,
    },
    /// Any write to the slots.
    Write {
        /// From the first slot.
        offset: u16,
        /// What is written, 0 to 16 bytes of it.
        data: [u8; 16],
        /// How many bytes.
        len: u8,
    },
}

/// The driver of an array in a BAR.
#[derive(Clone, Debug)]
pub struct ArrayDriver;

impl SlotDriver for ArrayDriver {
    type Store = SlotArray;
    type Access = ArrayAccess;

    fn new() -> Self {
        Self
    }

    fn layout(slots: SlotCount, control: ControlFormat) -> SlotArrayLayout {
        SlotArrayLayout { slots, control }
    }

    fn perform(&mut self, access: &ArrayAccess, slots: &mut Slots, function: &ImsUnderTest<SlotArray>) {
        let (offset, data) = match access {
            ArrayAccess::Message { slot, version } => {
                let slot = slots.index(*slot);
                (slot * 16, message(slot, *version).to_vec())
            }
            ArrayAccess::Control { slot, masked, pasid } => {
                let control = slots.shape.control(*masked, *pasid);
                (slots.index(*slot) * 16 + 12, control.to_le_bytes().to_vec())
            }
            ArrayAccess::Write { offset, data, len } => {
                let offset = usize::from(*offset) % (slots.len() * 16 + 16);
                (offset, data[..usize::from(len % 17)].to_vec())
            }
        };
        slots.write(offset, &data);
        function.write_slots(offset as u64, &data);
    }

    fn reset(&mut self) {}

    fn read(function: &ImsUnderTest<SlotArray>, data: &mut [u8]) {
        function.read_slots(0, data);
    }
}
