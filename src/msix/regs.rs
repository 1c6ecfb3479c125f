//! The registers of MSI-X as types (PCIe r6 §7.7.2), with the bits that software may write.

use bitfield_struct::bitfield;

/// Message Control, PCIe r6 §7.7.2.2.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct MessageControl {
    /// Bits 10:0: the table size minus one. Read-only.
    #[bits(11)]
    pub table_size_less_one: u16,
    #[bits(3)]
    __: u8,
    /// Bit 14: all vectors are masked, whatever their own mask bits.
    pub function_mask: bool,
    /// Bit 15: the function may use MSI-X, and may not use INTx or MSI.
    pub enable: bool,
}

impl MessageControl {
    /// The bits that software may write.
    pub const WRITABLE: Self = Self::new().with_function_mask(true).with_enable(true);

    /// This register after a write of `value`: read-only and reserved bits stay.
    pub fn written(self, value: u16) -> Self {
        let writable = Self::WRITABLE.into_bits();
        Self::from_bits(self.into_bits() & !writable | value & writable)
    }
}

/// Table Offset/Table BIR and PBA Offset/PBA BIR, PCIe r6 §7.7.2.3 and §7.7.2.4. Read-only.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct WindowRegister {
    /// Bits 2:0: the Base Address Register (0 to 5; 6 and 7 are reserved).
    #[bits(3)]
    pub bir: u8,
    /// Bits 31:3: the offset into that BAR, in QWORDs.
    #[bits(29)]
    pub offset_qwords: u32,
}

/// Vector Control of a table entry, PCIe r6 §7.7.2.8.
///
/// The steering tag (bits 31:16) belongs to TPH, which is not emulated. These bits are reserved: they read 0
/// and ignore writes.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct VectorControl {
    /// Bit 0: the vector is masked. Set after reset.
    pub mask: bool,
    #[bits(31)]
    __: u32,
}

impl VectorControl {
    /// After reset: masked.
    pub const RESET: Self = Self::new().with_mask(true);

    /// The bits that software may write.
    pub const WRITABLE: Self = Self::new().with_mask(true);

    /// This register after a write of `value`: reserved bits stay 0.
    pub fn written(value: u32) -> Self {
        Self::from_bits(value & Self::WRITABLE.into_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_control_keeps_all_but_its_two_writable_bits() {
        for before in 0..=u16::MAX {
            let register = MessageControl::from_bits(before);
            assert_eq!(register.written(0xffff).into_bits(), before | 0xc000);
            assert_eq!(register.written(0x0000).into_bits(), before & 0x3fff);
        }
    }

    #[test]
    fn the_table_size_field_is_eleven_bits_wide() {
        assert_eq!(MessageControl::new().with_table_size_less_one(2047).into_bits(), 0x07ff);
    }

    #[test]
    fn vector_control_keeps_only_the_mask() {
        assert_eq!(VectorControl::written(u32::MAX).into_bits(), 1);
        assert_eq!(VectorControl::written(u32::MAX - 1).into_bits(), 0);
        assert_eq!(VectorControl::RESET.into_bits(), 1);
    }

    #[test]
    fn a_window_register_splits_into_bir_and_offset() {
        let register = WindowRegister::from_bits(0x0000_3004);
        assert_eq!((register.bir(), register.offset_qwords()), (4, 0x3000 / 8));
    }
}
