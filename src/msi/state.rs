//! The registers of MSI as plain data, and the way back: any data at all is either refused, or what a function of
//! the given layout could have in its registers.

use super::Msi;
use super::layout::{AddressWidth, MsiLayout, VectorMasking};
use super::regs::MessageControl;
use crate::delivery::Vector;
use crate::message::MsiMessage;
use crate::registers::Registers;
use crate::state::RestoreError;

/// A function's MSI registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsiState {
    /// Message Control.
    pub message_control: u16,
    /// Message Address, Message Upper Address and Message Data; 0 where the function has no such register.
    pub message: MsiMessage,
    /// Mask Bits; 0 where the function has none.
    pub mask: u32,
}

impl Msi {
    pub(super) fn to_state(&self) -> MsiState {
        MsiState { message_control: self.control.into_bits(), message: self.message, mask: self.mask }
    }

    pub(super) fn try_from_state(layout: &MsiLayout, state: &MsiState) -> Result<Self, RestoreError> {
        let at_power_on = Self::at_power_on(layout);
        let control = MessageControl::from_bits(state.message_control);
        let fixed = |control: MessageControl| u32::from(control.written(0).into_bits());
        let (found, expected) = (fixed(control), fixed(at_power_on.control));
        if found != expected {
            return Err(RestoreError::ReadOnly { register: "Message Control", found, expected });
        }
        let address = match layout.address() {
            AddressWidth::Bits32 => u64::from(u32::MAX) & !3,
            AddressWidth::Bits64 => !3,
        };
        let mask = match layout.masking() {
            VectorMasking::Absent => 0,
            VectorMasking::Present => at_power_on.vector_bits(),
        };
        unreserved("Message Address", state.message.address, address)?;
        unreserved("Message Data", state.message.data.into(), 0xffff)?;
        unreserved("Mask Bits", state.mask.into(), mask.into())?;
        Ok(Self { control, message: state.message, mask: state.mask, ..at_power_on })
    }
}

fn unreserved(register: &'static str, found: u64, writable: u64) -> Result<(), RestoreError> {
    if found & !writable == 0 {
        Ok(())
    } else {
        Err(RestoreError::Reserved { register, vector: Vector(0), found })
    }
}
