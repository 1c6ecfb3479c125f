//! Configuration space of one function, as masks: which bits are emulated, and which reach the device.
//!
//! Registers are data ([`Register`]), rows of tables. A bit is either *emulated* or read from the device. A write may
//! change the emulated bit (*writable*), reach the device (*forwarded*), both, or neither. Pure state: no I/O, no
//! lock, no panic.

use std::ops::Range;

/// Bytes of a PCIe function's configuration space (PCIe r6 §7.2.2).
pub const CONFIG_SIZE: usize = 4096;

/// A row of a register table. Bits in no mask are read from the device, and writes to them are dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register {
    /// Offset in bytes, from the base of the table.
    pub offset: u16,
    /// Width in bytes, 1 to 4.
    pub width: u16,
    /// Value of the emulated bits at reset.
    pub reset: u32,
    /// Bits that are emulated.
    pub emulated: u32,
    /// Emulated bits that the guest may change.
    pub writable: u32,
    /// Bits that a write forwards to the device.
    pub forwarded: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Byte {
    value: u8,
    reset: u8,
    emulated: u8,
    writable: u8,
    forwarded: u8,
}

/// A function's configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Vec<Byte>,
}

impl ConfigSpace {
    /// A space without a device: all bits are emulated, zero and read-only.
    #[must_use]
    pub fn emulated() -> Self {
        Self { bytes: vec![Byte { emulated: 0xff, ..Byte::default() }; CONFIG_SIZE] }
    }

    /// A space that the device provides in the first `len` bytes, and zero beyond.
    #[must_use]
    pub fn device(len: usize) -> Self {
        let mut space = Self::emulated();
        for byte in space.bytes.iter_mut().take(len) {
            *byte = Byte { forwarded: 0xff, ..Byte::default() };
        }
        space
    }

    /// Defines a table's registers, at offsets from `base`.
    pub fn define(&mut self, base: u16, registers: &[Register]) {
        self.define_within(base..u16::MAX, registers);
    }

    /// Defines the part of a table's registers that lies in `range`, at offsets from its start.
    pub fn define_within(&mut self, range: Range<u16>, registers: &[Register]) {
        for register in registers {
            let at = range.start.saturating_add(register.offset);
            let width = register.width.min(range.end.saturating_sub(at));
            let lanes = register
                .reset
                .to_le_bytes()
                .into_iter()
                .zip(register.emulated.to_le_bytes())
                .zip(register.writable.to_le_bytes())
                .zip(register.forwarded.to_le_bytes())
                .take(usize::from(width));
            for (byte, (((reset, emulated), writable), forwarded)) in self.from(at).zip(lanes) {
                *byte = Byte { value: reset, reset, emulated, writable, forwarded };
            }
        }
    }

    /// Makes a range read zero and drop writes.
    pub fn hide(&mut self, offset: u16, len: usize) {
        for byte in self.from(offset).take(len) {
            *byte = Byte { emulated: 0xff, ..Byte::default() };
        }
    }

    /// Makes a range read `value` and drop writes.
    pub fn fix(&mut self, offset: u16, value: &[u8]) {
        for (byte, value) in self.from(offset).zip(value) {
            *byte = Byte { value: *value, reset: *value, emulated: 0xff, ..Byte::default() };
        }
    }

    /// Applies a guest's write to the writable bits.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (byte, data) in self.from(offset).zip(data) {
            byte.value = (byte.value & !byte.writable) | (data & byte.writable);
        }
    }

    /// Replaces the emulated bits in `data`, which the device has provided.
    pub fn merge(&self, offset: u16, data: &mut [u8]) {
        for (byte, data) in self.bytes.iter().skip(usize::from(offset)).zip(data) {
            *data = (*data & !byte.emulated) | (byte.value & byte.emulated);
        }
    }

    /// Whether a read contains bits of the device.
    #[must_use]
    pub fn reads_device(&self, offset: u16, len: usize) -> bool {
        self.bytes.iter().skip(usize::from(offset)).take(len).any(|byte| byte.emulated != 0xff)
    }

    /// The part of a write to forward: runs of bytes with their offsets, with other bits cleared.
    #[must_use]
    pub fn forwarded(&self, offset: u16, data: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut runs: Vec<(u16, Vec<u8>)> = Vec::new();
        let mut open = false;
        let bytes = self.bytes.iter().skip(usize::from(offset));
        for ((byte, data), at) in bytes.zip(data).zip(offset..) {
            let heard = byte.forwarded != 0;
            match runs.last_mut() {
                Some((_, run)) if heard && open => run.push(data & byte.forwarded),
                _ if heard => runs.push((at, vec![data & byte.forwarded])),
                _ => {}
            }
            open = heard;
        }
        runs
    }

    /// The emulated value of up to four bytes, little-endian.
    #[must_use]
    pub fn value(&self, offset: u16, width: usize) -> u32 {
        let bytes = self.bytes.iter().skip(usize::from(offset)).take(width.min(4));
        bytes.rev().fold(0, |value, byte| (value << 8) | u32::from(byte.value))
    }

    /// Puts every emulated bit back to its value at reset.
    pub fn reset(&mut self) {
        for byte in &mut self.bytes {
            byte.value = byte.reset;
        }
    }

    fn from(&mut self, offset: u16) -> impl Iterator<Item = &mut Byte> {
        self.bytes.iter_mut().skip(usize::from(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::device(256);
        space.define(
            0x40,
            &[
                Register {
                    offset: 0,
                    width: 4,
                    reset: 0x8,
                    emulated: 0xffff_ffff,
                    writable: 0xffff_f000,
                    ..Register::default()
                },
                Register { offset: 4, width: 2, emulated: 0x8000, forwarded: 0x7fff, ..Register::default() },
            ],
        );
        space
    }

    #[test]
    fn byte_writes_add_up_to_the_dword_write() {
        let mut whole = space();
        whole.write(0x40, &0xdead_beef_u32.to_le_bytes());
        let mut bytes = space();
        for (at, byte) in (0x40..).zip(0xdead_beef_u32.to_le_bytes()) {
            bytes.write(at, &[byte]);
        }
        assert_eq!(whole.value(0x40, 4), 0xdead_b008);
        assert_eq!(bytes.value(0x40, 4), 0xdead_b008);
        whole.reset();
        assert_eq!(whole.value(0x40, 4), 8);
    }

    #[test]
    fn reads_merge_the_device_and_the_emulation_by_bit() {
        let mut data = [0xff; 4];
        space().merge(0x42, &mut data);
        assert_eq!(data, [0, 0, 0xff, 0x7f]);
        assert!(!space().reads_device(0x40, 4));
        assert!(space().reads_device(0x40, 5));
        assert!(!space().reads_device(0x100, 4), "nothing is beyond the device's space");
    }

    #[test]
    fn writes_reach_the_device_in_runs_and_only_in_their_bits() {
        assert_eq!(space().forwarded(0x3e, &[1, 2, 3, 4]), vec![(0x3e, vec![1, 2])]);
        assert_eq!(space().forwarded(0x42, &[1, 2, 0xff, 0xff, 5]), vec![(0x44, vec![0xff, 0x7f, 5])]);
        assert_eq!(space().forwarded(0x40, &[1, 2, 3, 4]), vec![]);
        let mut holes = space();
        holes.hide(0x51, 1);
        assert_eq!(holes.forwarded(0x50, &[1, 2, 3]), vec![(0x50, vec![1]), (0x52, vec![3])]);
    }

    #[test]
    fn a_table_ends_where_its_range_does() {
        let emulated = |offset| Register { offset, width: 4, emulated: u32::MAX, ..Register::default() };
        let mut space = ConfigSpace::device(256);
        space.define_within(0x40..0x46, &[emulated(0), emulated(4), emulated(8)]);
        let mut data = [0xee; 12];
        space.merge(0x40, &mut data);
        assert_eq!(data, [0, 0, 0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);
        space.define_within(0x50..0x50, &[emulated(0)]);
        assert!(space.reads_device(0x50, 1), "an empty range has no registers");
    }

    #[test]
    fn accesses_over_the_end_touch_nothing() {
        let mut space = ConfigSpace::emulated();
        let mut data = [0x5a; 8];
        space.write(0xffe, &data);
        space.merge(0xffe, &mut data);
        assert_eq!(data, [0, 0, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a]);
        assert_eq!(space.value(0xffff, 4), 0);
    }
}
