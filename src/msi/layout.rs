//! The shape of a function's MSI capability: how many messages, and which optional registers it has.

use super::regs::MessageControl;

/// The capability's ID, PCIe r6 §7.7.1.1.
pub const CAPABILITY_ID: u8 = 0x05;

/// The number of vectors that a function supports: 1, 2, 4, 8, 16 or 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageCount {
    log2: u8,
}

impl MessageCount {
    /// `None` for anything but a power of two up to 32.
    pub fn new(messages: u32) -> Option<Self> {
        let log2 = messages.checked_ilog2()?;
        (messages.is_power_of_two() && log2 <= 5).then_some(Self { log2: log2 as u8 })
    }

    /// The number of vectors.
    pub fn get(self) -> u32 {
        1u32.wrapping_shl(self.log2.into())
    }
}

/// Whether the message address has 32 or 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressWidth {
    /// Message Address only.
    Bits32,
    /// Message Address and Message Upper Address.
    Bits64,
}

/// Whether the function has Mask Bits and Pending Bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorMasking {
    /// No mask and no pending bits: a vector in use is never masked.
    Absent,
    /// There are Mask Bits and Pending Bits.
    Present,
}

/// The bytes are not an MSI capability, or its Multiple Message Capable is above 5 (32 vectors).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("capability ID {id:#x} with Message Control {control:#06x} is not a valid MSI capability")]
pub struct MsiLayoutError {
    /// The capability's ID.
    pub id: u8,
    /// Its Message Control.
    pub control: u16,
}

/// The layout of a function's MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiLayout {
    messages: MessageCount,
    address: AddressWidth,
    masking: VectorMasking,
}

impl MsiLayout {
    /// A capability with these registers.
    pub fn new(messages: MessageCount, address: AddressWidth, masking: VectorMasking) -> Self {
        Self { messages, address, masking }
    }

    /// Parses the first four bytes of a function's MSI capability.
    ///
    /// # Errors
    /// The bytes are not a valid MSI capability.
    pub fn parse([id, _next, low, high]: [u8; 4]) -> Result<Self, MsiLayoutError> {
        let control = MessageControl::from_bits(u16::from_le_bytes([low, high]));
        let log2 = control.multiple_message_capable();
        if id != CAPABILITY_ID || log2 > 5 {
            return Err(MsiLayoutError { id, control: control.into_bits() });
        }
        Ok(Self {
            messages: MessageCount { log2 },
            address: if control.address_64() { AddressWidth::Bits64 } else { AddressWidth::Bits32 },
            masking: if control.per_vector_masking() {
                VectorMasking::Present
            } else {
                VectorMasking::Absent
            },
        })
    }

    /// The number of vectors that the function supports.
    pub fn messages(&self) -> MessageCount {
        self.messages
    }

    /// Whether the message address has 32 or 64 bits.
    pub fn address(&self) -> AddressWidth {
        self.address
    }

    /// Whether the function has Mask Bits and Pending Bits.
    pub fn masking(&self) -> VectorMasking {
        self.masking
    }

    /// Length of the capability in bytes.
    pub fn bytes(&self) -> u16 {
        match (self.address, self.masking) {
            (AddressWidth::Bits32, VectorMasking::Absent) => 10,
            (AddressWidth::Bits64, VectorMasking::Absent) => 14,
            (AddressWidth::Bits32, VectorMasking::Present) => 20,
            (AddressWidth::Bits64, VectorMasking::Present) => 24,
        }
    }

    /// Message Control after power-on.
    pub(super) fn control(&self) -> MessageControl {
        MessageControl::new()
            .with_multiple_message_capable(self.messages.log2)
            .with_address_64(self.address == AddressWidth::Bits64)
            .with_per_vector_masking(self.masking == VectorMasking::Present)
    }

    /// The registers in order, one for each DWORD of the capability.
    pub(super) fn registers(&self) -> &'static [Register] {
        use Register::{AddressHigh, AddressLow, Control, Data, Mask, Pending};
        match (self.address, self.masking) {
            (AddressWidth::Bits32, VectorMasking::Absent) => &[Control, AddressLow, Data],
            (AddressWidth::Bits64, VectorMasking::Absent) => &[Control, AddressLow, AddressHigh, Data],
            (AddressWidth::Bits32, VectorMasking::Present) => &[Control, AddressLow, Data, Mask, Pending],
            (AddressWidth::Bits64, VectorMasking::Present) => {
                &[Control, AddressLow, AddressHigh, Data, Mask, Pending]
            }
        }
    }
}

/// A DWORD of the capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    /// ID, next pointer, Message Control.
    Control,
    AddressLow,
    AddressHigh,
    Data,
    Mask,
    Pending,
}
