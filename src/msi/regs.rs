//! The registers of MSI as types (PCIe r6 §7.7.1), with the bits that software may write.

use bitfield_struct::bitfield;

/// Message Control, PCIe r6 §7.7.1.2.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct MessageControl {
    /// Bit 0: the function may use MSI, and may not use INTx or MSI-X.
    pub enable: bool,
    /// Bits 3:1: the number of vectors that the function supports, as a power of two (0 to 5). Read-only.
    #[bits(3)]
    pub multiple_message_capable: u8,
    /// Bits 6:4: the number of vectors that software has allocated, as a power of two.
    #[bits(3)]
    pub multiple_message_enable: u8,
    /// Bit 7: the address has 64 bits. Read-only.
    pub address_64: bool,
    /// Bit 8: there are mask and pending bits. Read-only.
    pub per_vector_masking: bool,
    #[bits(7)]
    __: u8,
}

impl MessageControl {
    /// The bits that software may write.
    pub const WRITABLE: Self = Self::new().with_enable(true).with_multiple_message_enable(7);

    /// This register after a write of `value`: read-only and reserved bits stay.
    pub fn written(self, value: u16) -> Self {
        let writable = Self::WRITABLE.into_bits();
        Self::from_bits(self.into_bits() & !writable | value & writable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_control_keeps_all_but_its_writable_bits() {
        for before in 0..=u16::MAX {
            let register = MessageControl::from_bits(before);
            assert_eq!(register.written(0xffff).into_bits(), before | 0x0071);
            assert_eq!(register.written(0x0000).into_bits(), before & !0x0071);
        }
    }
}
