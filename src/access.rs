//! Byte lanes: the parts of a guest's access in naturally aligned DWORDs. An access may have any offset and
//! width.
//!
//! The specification requires aligned DWORD or QWORD accesses (PCIe r6 §7.7.2) and leaves others undefined.
//! Here the others behave as on a bus with byte enables, so no access is an error and none is dropped. Pure
//! arithmetic, which cannot overflow, index out of bounds or panic.

use std::ops::Range;

/// The part of an access in one DWORD of a register block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The DWORD's index in the block: byte offset / 4.
    pub dword: u64,
    /// The range of its bytes in the buffer of the access. It has 1 to 4 bytes.
    pub bytes: Range<usize>,
    /// The first enabled byte of the DWORD: 0 to 3.
    first: u8,
}

impl Lane {
    /// The bits of the enabled bytes.
    #[inline]
    pub fn enabled(&self) -> u32 {
        let bits = |bytes: usize| 8u32.wrapping_mul(bytes as u32);
        let width = bits(self.bytes.len());
        u32::MAX.wrapping_shr(32u32.wrapping_sub(width)).wrapping_shl(bits(self.first.into()))
    }

    /// Copies the enabled bytes of `register` to the buffer of the access.
    #[inline]
    pub fn read(&self, register: u32, data: &mut [u8]) {
        let register = register.to_le_bytes();
        let wanted = data.get_mut(self.bytes.clone()).unwrap_or_default();
        // Guests read whole DWORDs, which need no loop over bytes.
        if let Ok(whole) = <&mut [u8; 4]>::try_from(&mut *wanted) {
            *whole = register;
            return;
        }
        let enabled = register.get(usize::from(self.first)..).unwrap_or_default();
        for (to, from) in wanted.iter_mut().zip(enabled) {
            *to = *from;
        }
    }

    /// Returns `register` with its enabled bytes replaced by those of the access.
    #[inline]
    pub fn merge(&self, register: u32, data: &[u8]) -> u32 {
        let written = data.get(self.bytes.clone()).unwrap_or_default();
        if let Ok(whole) = <[u8; 4]>::try_from(written) {
            return u32::from_le_bytes(whole);
        }
        let mut register = register.to_le_bytes();
        let enabled = register.get_mut(usize::from(self.first)..).unwrap_or_default();
        for (to, from) in enabled.iter_mut().zip(written) {
            *to = *from;
        }
        u32::from_le_bytes(register)
    }
}

/// The lanes of an access of `len` bytes at `offset`, in ascending order. An access that would wrap around at
/// the end of the address space ends there.
#[inline]
pub fn lanes(offset: u64, len: usize) -> Lanes {
    let beyond_first = usize::try_from(u64::MAX.wrapping_sub(offset)).unwrap_or(usize::MAX);
    Lanes { at: offset, done: 0, len: len.min(beyond_first.saturating_add(1)) }
}

/// See [`lanes`].
#[derive(Clone, Debug)]
pub struct Lanes {
    at: u64,
    done: usize,
    len: usize,
}

impl Iterator for Lanes {
    type Item = Lane;

    #[inline]
    fn next(&mut self) -> Option<Lane> {
        let Self { at, done: start, len } = *self;
        if start >= len {
            return None;
        }
        let first = (at % 4) as u8;
        let width = len.wrapping_sub(start).min(usize::from(4u8.wrapping_sub(first)));
        // These wrap only at the end of the address space, where `len` ends the access too.
        (self.at, self.done) = (at.wrapping_add(width as u64), start.wrapping_add(width));
        Some(Lane { dword: at / 4, bytes: start..self.done, first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_every_access_lands_where_a_flat_memory_would_put_it() {
        for offset in 0..9usize {
            for len in 0..=17usize {
                let mut registers = [0u32; 8];
                let data: Vec<u8> = (1..=len as u8).collect();
                for lane in lanes(offset as u64, len) {
                    let register = &mut registers[lane.dword as usize];
                    let written = lane.merge(*register, &data);
                    let enabled = lane.enabled();
                    assert_eq!(written, *register & !enabled | lane.merge(0, &data) & enabled);
                    assert_eq!(lane.merge(0, &[0xff; 17]), enabled, "no byte more and none less");
                    *register = written;
                }
                let flat: Vec<u8> = registers.iter().flat_map(|r| r.to_le_bytes()).collect();
                assert_eq!(&flat[offset..offset + len], &data[..]);
                assert_eq!(flat.iter().filter(|b| **b != 0).count(), len, "nothing else changed");

                let mut read = vec![0; len];
                for lane in lanes(offset as u64, len) {
                    lane.read(registers[lane.dword as usize], &mut read);
                }
                assert_eq!(read, data);
            }
        }
    }

    #[test]
    fn an_access_at_the_end_of_the_address_space_stops_there() {
        let lanes: Vec<_> = lanes(u64::MAX - 1, 8).collect();
        assert_eq!(lanes.len(), 1);
        assert_eq!(lanes[0].bytes, 0..2);
    }
}
