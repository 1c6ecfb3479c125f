//! The registers of MSI as plain data, and the way back: any data at all is either refused, or what a function of
//! the given layout could have in its registers.

use super::layout::{AddressWidth, MsiLayout, VectorMasking};
use super::plain::Plain;
use super::regs::MessageControl;
use crate::delivery::Vector;
use crate::message::MsiMessage;
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

impl MsiState {
    /// A state from what another VMM's snapshot keeps: Message Control, address and data, and Mask Bits.
    ///
    /// The result is one that a function of `layout` can have:
    /// - Message Control keeps Enable and Multiple Message Enable. The other bits are read-only or reserved, and are those of
    ///   `layout`.
    /// - The low two bits of the address are dropped, and its upper half where the function has no such register.
    /// - The upper 16 bits of the data are dropped: Extended Message Data is not supported.
    /// - Mask bits of vectors that the function does not have are dropped.
    pub fn new(layout: &MsiLayout, message_control: u16, message: MsiMessage, mask: u32) -> Self {
        let at_power_on = Plain::new(*layout);
        Self {
            message_control: at_power_on.control.written(message_control).into_bits(),
            message: MsiMessage {
                address: message.address & address_bits(layout),
                data: message.data & DATA_BITS,
            },
            mask: mask & mask_bits(&at_power_on),
        }
    }
}

/// The bits of Message Data.
const DATA_BITS: u32 = 0xffff;

/// The bits of Message Address and Message Upper Address that can be set.
fn address_bits(layout: &MsiLayout) -> u64 {
    match layout.address() {
        AddressWidth::Bits32 => u64::from(u32::MAX) & !3,
        AddressWidth::Bits64 => !3,
    }
}

/// The bits of Mask Bits that can be set.
fn mask_bits(plain: &Plain) -> u32 {
    match plain.layout.masking() {
        VectorMasking::Absent => 0,
        VectorMasking::Present => plain.vector_bits(),
    }
}

impl Plain {
    pub(super) fn to_state(&self) -> MsiState {
        MsiState { message_control: self.control.into_bits(), message: self.message, mask: self.mask }
    }

    pub(super) fn try_from_state(layout: &MsiLayout, state: &MsiState) -> Result<Self, RestoreError> {
        let at_power_on = Self::new(*layout);
        let control = MessageControl::from_bits(state.message_control);
        let fixed = |control: MessageControl| u32::from(control.written(0).into_bits());
        let (found, expected) = (fixed(control), fixed(at_power_on.control));
        if found != expected {
            return Err(RestoreError::ReadOnly { register: "Message Control", found, expected });
        }
        unreserved("Message Address", state.message.address, address_bits(layout))?;
        unreserved("Message Data", state.message.data.into(), DATA_BITS.into())?;
        unreserved("Mask Bits", state.mask.into(), mask_bits(&at_power_on).into())?;
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
