//! The capability lists of a host's function, as a driver walks them (PCIe r6 §7.5.1.1.11, §7.6.3).
//!
//! A walk ends at a loop, at an offset outside of the list's area, and at a missing capability. Each offset is a multiple
//! of 4 and occurs once, so no two headers overlap. Pure: it reads the bytes of the configuration space.

use std::ops::Range;

const STATUS: usize = 0x06;
/// Status: the function has a capability list.
pub(super) const STATUS_CAPABILITIES: u8 = 1 << 4;
/// The pointer to the first capability.
pub(super) const POINTER: u16 = 0x34;
const FIRST: u16 = 0x40;
/// Offset of the first extended capability.
pub(super) const EXTENDED_FIRST: u16 = 0x100;
/// The end of conventional configuration space.
pub(super) const CONVENTIONAL_END: u16 = 0x100;
/// The end of extended configuration space.
pub(super) const EXTENDED_END: u16 = 0x1000;

/// A capability list in list order: offset and ID. An ID may occur several times, an offset once.
pub(super) type List<I> = Vec<(u16, I)>;

/// The list at 0x34.
pub(super) fn conventional(host: &[u8]) -> List<u8> {
    let mut list = List::new();
    if host.get(STATUS).is_none_or(|status| status & STATUS_CAPABILITIES == 0) {
        return list;
    }
    let mut next = byte(host, POINTER);
    while let Some(offset) = next.map(|next| u16::from(next & !3)) {
        let seen = list.iter().any(|(earlier, _)| *earlier == offset);
        let Some(id) = byte(host, offset).filter(|id| offset >= FIRST && !seen && *id != 0xff) else {
            break;
        };
        list.push((offset, id));
        next = byte(host, offset.saturating_add(1));
    }
    list
}

/// The list at 0x100.
pub(super) fn extended(host: &[u8]) -> List<u16> {
    let mut list = List::new();
    let mut offset = EXTENDED_FIRST;
    while let Some(header) = dword(host, offset).filter(|header| *header != 0 && *header != u32::MAX) {
        if offset < EXTENDED_FIRST || list.iter().any(|(earlier, _)| *earlier == offset) {
            break;
        }
        list.push((offset, (header & 0xffff) as u16));
        offset = ((header >> 20) & 0xffc) as u16;
    }
    list
}

/// The bytes of a capability of `len` bytes. It ends at the next capability of the list, and at `end`, if it claims
/// more.
pub(super) fn bytes<I>(list: &List<I>, offset: u16, len: u16, end: u16) -> Range<u16> {
    let next = list.iter().map(|(other, _)| *other).filter(|other| *other > offset).min();
    offset..offset.saturating_add(len).min(next.unwrap_or(end)).min(end)
}

/// A byte of configuration space.
pub(super) fn byte(host: &[u8], offset: u16) -> Option<u8> {
    host.get(usize::from(offset)).copied()
}

/// A DWORD of configuration space.
pub(super) fn dword(host: &[u8], offset: u16) -> Option<u32> {
    let bytes = host.get(usize::from(offset)..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_ends_at_its_length_at_the_next_one_and_at_the_end_of_the_space() {
        let list = vec![(0x80, 1u8), (0x40, 5), (0x60, 9)];
        assert_eq!(bytes(&list, 0x40, 14, CONVENTIONAL_END), 0x40..0x4e);
        assert_eq!(bytes(&list, 0x40, 0x20, CONVENTIONAL_END), 0x40..0x60);
        assert_eq!(
            bytes(&list, 0x40, 0x21, CONVENTIONAL_END),
            0x40..0x60,
            "the list's order does not matter"
        );
        assert_eq!(bytes(&list, 0x80, 0x80, CONVENTIONAL_END), 0x80..0x100);
        assert_eq!(bytes(&list, 0x80, 0x81, CONVENTIONAL_END), 0x80..0x100);
        assert_eq!(bytes(&list, 0x80, u16::MAX, CONVENTIONAL_END), 0x80..0x100);
    }

    #[test]
    fn a_function_without_a_list_has_no_capabilities() {
        let mut host = vec![0; 256];
        host[usize::from(POINTER)] = 0x40;
        host[0x40] = 1;
        assert_eq!(conventional(&host), []);
        host[STATUS] = STATUS_CAPABILITIES;
        assert_eq!(conventional(&host), [(0x40, 1)]);
        assert_eq!((conventional(&[]), extended(&host)), (vec![], vec![]));
    }
}
