//! The registers of MSI as plain data. Restoring refuses data that no function of the layout could have in
//! its registers.

use super::layout::{AddressWidth, MsiLayout, VectorMasking};
use super::regs::MessageControl;
use super::values::Values;
use crate::delivery::Vector;
use crate::message::MsiMessage;
use crate::state::RestoreError;

/// A function's MSI registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsiState {
    /// Message Control.
    pub message_control: u16,
    /// Message Address, Message Upper Address and Message Data. A register that the function lacks is 0.
    pub message: MsiMessage,
    /// Mask Bits, or 0 if the function has none.
    pub mask: u32,
}

impl MsiState {
    /// A state from the registers in another VMM's snapshot: Message Control, address and data, and Mask
    /// Bits.
    ///
    /// The result is one that a function of `layout` can have:
    /// - Message Control keeps Enable and Multiple Message Enable. The other bits are read-only or reserved, and are those of
    ///   `layout`.
    /// - The low two bits of the address are dropped, and its upper half where the function has no such register.
    /// - The upper 16 bits of the data are dropped: Extended Message Data is not supported.
    /// - Mask bits of vectors that the function does not have are dropped.
    pub fn new(layout: &MsiLayout, message_control: u16, message: MsiMessage, mask: u32) -> Self {
        let power_on = Values::new(*layout);
        Self {
            message_control: power_on.control.written(message_control).into_bits(),
            message: MsiMessage {
                address: message.address & address_bits(layout),
                data: message.data & DATA_BITS,
            },
            mask: mask & mask_bits(&power_on),
        }
    }
}

/// The bits of Message Data.
const DATA_BITS: u32 = 0xffff;

/// The writable bits of Message Address and Message Upper Address.
fn address_bits(layout: &MsiLayout) -> u64 {
    match layout.address() {
        AddressWidth::Bits32 => u64::from(u32::MAX) & !3,
        AddressWidth::Bits64 => !3,
    }
}

/// The writable bits of Mask Bits.
fn mask_bits(values: &Values) -> u32 {
    match values.layout.masking() {
        VectorMasking::Absent => 0,
        VectorMasking::Present => values.vector_bits(),
    }
}

impl Values {
    pub(super) fn to_state(&self) -> MsiState {
        MsiState { message_control: self.control.into_bits(), message: self.message, mask: self.mask }
    }

    pub(super) fn try_from_state(layout: &MsiLayout, state: &MsiState) -> Result<Self, RestoreError> {
        let power_on = Self::new(*layout);
        let control = MessageControl::from_bits(state.message_control);
        let fixed = |control: MessageControl| u32::from(control.written(0).into_bits());
        let (found, expected) = (fixed(control), fixed(power_on.control));
        if found != expected {
            return Err(RestoreError::ReadOnly { register: "Message Control", found, expected });
        }
        unreserved("Message Address", state.message.address, address_bits(layout))?;
        unreserved("Message Data", state.message.data.into(), DATA_BITS.into())?;
        unreserved("Mask Bits", state.mask.into(), mask_bits(&power_on).into())?;
        Ok(Self { control, message: state.message, mask: state.mask, ..power_on })
    }
}

fn unreserved(register: &'static str, found: u64, writable: u64) -> Result<(), RestoreError> {
    if found & !writable == 0 {
        Ok(())
    } else {
        Err(RestoreError::Reserved { register, vector: Vector(0), found })
    }
}
