//! Which of a device's capabilities the guest sees, and the lists that lead to them (PCIe r6 §7.5.1.1.11, §7.6.3).
//!
//! A capability that is carried keeps its place and gets a new pointer to the next one that is; all others are hidden:
//! nothing leads to them, and where they were reads zero. Carried are those that work in a guest, by the tables below;
//! the rest, known or not, is hidden, so that a driver never finds what does not work. So is Scalable IOV, which tells of an
//! interrupt message store: the device's own is not emulated, and messages that a guest writes to it are none of the host's.
//! Pure: it turns the host's view into registers of a [`ConfigSpace`].

use std::collections::BTreeMap;

use vm_msi::ims::SiovDvsec;

use super::registers;
use crate::pci::{ConfigSpace, Register};

/// Capability IDs (PCI Code and ID Assignment r1.11 §2, §3).
pub mod id {
    /// Power management.
    pub const POWER_MANAGEMENT: u8 = 0x01;
    /// Vital product data.
    pub const VITAL_PRODUCT_DATA: u8 = 0x03;
    /// MSI.
    pub const MSI: u8 = 0x05;
    /// Vendor-specific.
    pub const VENDOR_SPECIFIC: u8 = 0x09;
    /// PCI Express.
    pub const PCI_EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
    /// Advanced features: reset of a conventional function.
    pub const ADVANCED_FEATURES: u8 = 0x13;
    /// Extended: advanced error reporting.
    pub const ADVANCED_ERROR_REPORTING: u16 = 0x0001;
    /// Extended: device serial number.
    pub const SERIAL_NUMBER: u16 = 0x0003;
    /// Extended: vendor-specific.
    pub const EXTENDED_VENDOR_SPECIFIC: u16 = 0x000b;
    /// Extended: designated vendor-specific.
    pub const DESIGNATED_VENDOR_SPECIFIC: u16 = 0x0023;
}

/// A capability that is carried, and what of it is not simply the device's.
struct Exposed {
    id: u8,
    registers: &'static [Register],
}

const EXPOSED: &[Exposed] = &[
    Exposed { id: id::POWER_MANAGEMENT, registers: registers::POWER_MANAGEMENT },
    Exposed { id: id::VITAL_PRODUCT_DATA, registers: &[] },
    Exposed { id: id::VENDOR_SPECIFIC, registers: &[] },
    Exposed { id: id::PCI_EXPRESS, registers: registers::PCI_EXPRESS },
    Exposed { id: id::ADVANCED_FEATURES, registers: registers::ADVANCED_FEATURES },
];

const EXPOSED_EXTENDED: &[u16] = &[
    id::ADVANCED_ERROR_REPORTING,
    id::SERIAL_NUMBER,
    id::EXTENDED_VENDOR_SPECIFIC,
    id::DESIGNATED_VENDOR_SPECIFIC,
];

const STATUS: u16 = 0x06;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const POINTER: u16 = 0x34;
const FIRST: u16 = 0x40;
/// Bytes of an MSI capability with 64-bit address and masks (PCIe r6 §7.7.1).
const MSI_LONGEST: usize = 24;
const EXTENDED_FIRST: u16 = 0x100;
const CONVENTIONAL_END: u16 = 0x100;
const CONFIG_END: u16 = 0x1000;

/// A list as the device has it: offset and ID, in the list's order. An ID may come several times, an offset once.
type List<I> = Vec<(u16, I)>;

/// Where the carried capabilities of the lower 256 bytes are: the first of each ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapabilityOffsets(BTreeMap<u8, u16>);

impl CapabilityOffsets {
    /// Where the capability is, if the guest has it.
    #[must_use]
    pub fn of(&self, id: u8) -> Option<u16> {
        self.0.get(&id).copied()
    }
}

/// Where a capability of the device's own list is, carried or not.
#[must_use]
pub fn find(host: &[u8], id: u8) -> Option<u16> {
    walk(host).into_iter().find(|(_, found)| *found == id).map(|(offset, _)| offset)
}

/// Makes the guest's capability lists in `space` from the configuration space that the host shows. Capabilities with the
/// IDs `emulated` are carried too, for others to fill.
pub fn relink(space: &mut ConfigSpace, host: &[u8], emulated: &[u8]) -> CapabilityOffsets {
    let list = walk(host);
    let registers = |id: u8| {
        let exposed = EXPOSED.iter().find(|exposed| exposed.id == id).map(|exposed| exposed.registers);
        exposed.or(emulated.contains(&id).then_some(&[][..]))
    };
    for (offset, id, len) in hidden(&list, CONVENTIONAL_END, |_, id| registers(id).is_some()) {
        // What follows a capability of known length may be registers of the device's own.
        space.hide(offset, if id == id::MSI { len.min(MSI_LONGEST) } else { len });
    }
    let mut offsets = CapabilityOffsets::default();
    let mut pointer = POINTER;
    space.hide(POINTER, 4);
    for (offset, id) in &list {
        let Some(registers) = registers(*id) else {
            continue;
        };
        space.fix(pointer, &[offset.to_le_bytes()[0]]);
        space.fix(*offset, &[*id, 0]);
        // Of two capabilities of one ID only vendor-specific ones make sense; the emulation looks after the first.
        if !offsets.0.contains_key(id) {
            offsets.0.insert(*id, *offset);
            space.define(*offset, registers);
        }
        pointer = offset.saturating_add(1);
    }
    let has_list = if offsets.0.is_empty() { 0 } else { u32::from(STATUS_CAPABILITIES) };
    space.define(0, &[Register { reset: has_list, ..registers::STATUS }]);
    relink_extended(space, host);
    offsets
}

fn relink_extended(space: &mut ConfigSpace, host: &[u8]) {
    let list = walk_extended(host);
    let exposed = |offset: u16, id| {
        let [_, second, third] = [0, 4, 8].map(|at| dword(host, offset.saturating_add(at)).unwrap_or(0));
        EXPOSED_EXTENDED.contains(&id) && !SiovDvsec::is_at([id.into(), second, third])
    };
    for (offset, _, len) in hidden(&list, CONFIG_END, exposed) {
        space.hide(offset, len);
    }
    let kept: Vec<u16> =
        list.iter().filter(|(offset, id)| exposed(*offset, *id)).map(|(offset, _)| *offset).collect();
    // The list starts at 0x100, always: what is hidden there becomes a null capability that points on.
    let starts = kept.iter().copied().filter(|offset| *offset != EXTENDED_FIRST);
    let mut next = starts.chain([0]);
    if kept.first() != Some(&EXTENDED_FIRST) {
        space.fix(EXTENDED_FIRST, &header(0, next.next().unwrap_or(0)));
    }
    for (offset, next) in kept.iter().zip(next) {
        let own = dword(host, *offset).unwrap_or(0);
        space.fix(*offset, &header(own, next));
    }
}

/// An extended capability's header: ID and version of `own`, and another next pointer.
fn header(own: u32, next: u16) -> [u8; 4] {
    ((own & 0x000f_ffff) | (u32::from(next) << 20)).to_le_bytes()
}

/// Those capabilities that are not carried, with their lengths at most: each ends where another begins.
fn hidden<I: Copy>(list: &List<I>, end: u16, exposed: impl Fn(u16, I) -> bool) -> Vec<(u16, I, usize)> {
    let len = |offset: u16| {
        let starts = list.iter().map(|(other, _)| *other).filter(|other| *other > offset);
        usize::from(starts.min().unwrap_or(end).saturating_sub(offset))
    };
    let hidden = list.iter().filter(|(offset, id)| !exposed(*offset, *id));
    hidden.map(|(offset, id)| (*offset, *id, len(*offset))).collect()
}

/// The list at 0x34. A list that loops, leaves its area or is misaligned ends there.
fn walk(host: &[u8]) -> List<u8> {
    let mut list = List::new();
    if byte(host, STATUS).is_none_or(|status| status & STATUS_CAPABILITIES == 0) {
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

/// The list at 0x100, by the same rules.
fn walk_extended(host: &[u8]) -> List<u16> {
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

fn byte(host: &[u8], offset: u16) -> Option<u8> {
    host.get(usize::from(offset)).copied()
}

fn dword(host: &[u8], offset: u16) -> Option<u32> {
    let bytes = host.get(usize::from(offset)..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device's configuration space: capabilities at (offset, ID, next), extended ones at (offset, ID, next).
    fn host(list: &[(u16, u8, u8)], extended: &[(u16, u16, u16)]) -> Vec<u8> {
        let mut host = vec![0xee; 4096];
        host[6..8].copy_from_slice(&[0x10, 0]);
        host[0x34] = list.first().map_or(0, |(offset, ..)| *offset as u8);
        host[0x100..0x104].fill(0);
        for (offset, id, next) in list {
            host[usize::from(*offset)..][..2].copy_from_slice(&[*id, *next]);
        }
        for (offset, id, next) in extended {
            let header = u32::from(*id) | 1 << 16 | u32::from(*next) << 20;
            host[usize::from(*offset)..][..4].copy_from_slice(&header.to_le_bytes());
        }
        host
    }

    /// The space as a guest reads it.
    fn guest(host: &[u8], emulated: &[u8]) -> (Vec<u8>, CapabilityOffsets) {
        let mut space = ConfigSpace::device(host.len());
        space.define(0, registers::HEADER);
        let offsets = relink(&mut space, host, emulated);
        let mut seen = host.to_vec();
        space.merge(0, &mut seen);
        (seen, offsets)
    }

    #[test]
    fn a_guest_that_walks_the_list_sees_what_is_carried_and_arrives() {
        let host = host(
            &[
                (0x40, id::MSI, 0x58),
                (0x58, id::POWER_MANAGEMENT, 0x70),
                (0x70, 0x12, 0x80),
                (0x80, id::MSIX, 0),
            ],
            &[],
        );
        let (seen, offsets) = guest(&host, &[id::MSIX]);
        assert_eq!(walk(&seen), [(0x58, id::POWER_MANAGEMENT), (0x80, id::MSIX)]);
        assert_eq!((offsets.of(id::MSIX), offsets.of(id::MSI)), (Some(0x80), None));
        assert!(seen[0x40..0x58].iter().all(|byte| *byte == 0), "the MSI capability");
        assert!(seen[0x70..0x80].iter().all(|byte| *byte == 0), "an unknown capability, up to the next");
        assert_eq!(seen[0x90..0xa0], [0xee; 0x10], "registers outside of the list are the device's");
    }

    #[test]
    fn registers_behind_a_hidden_msi_capability_stay() {
        let (seen, _) = guest(&host(&[(0x70, id::POWER_MANAGEMENT, 0x80), (0x80, id::MSI, 0)], &[]), &[]);
        assert_eq!(walk(&seen), [(0x70, id::POWER_MANAGEMENT)]);
        assert_eq!((seen[0x97], seen[0x98]), (0, 0xee));
    }

    #[test]
    fn a_device_that_keeps_nothing_has_no_list() {
        let (seen, offsets) = guest(&host(&[(0x40, id::MSI, 0x60), (0x60, id::MSIX, 0)], &[]), &[]);
        assert_eq!((seen[6] & STATUS_CAPABILITIES, seen[0x34]), (0, 0));
        assert_eq!(offsets, CapabilityOffsets::default());
        let mut none = host(&[(0x40, id::MSIX, 0)], &[]);
        none[6] = 0;
        assert_eq!(guest(&none, &[]).0[0x34], 0);
    }

    #[test]
    fn lists_that_loop_or_lead_astray_end() {
        for next in [0x40, 0x60, 0x10, 0x43, 0xff] {
            let host = host(&[(0x40, id::POWER_MANAGEMENT, 0x60), (0x60, id::MSIX, next)], &[]);
            let (seen, _) = guest(&host, &[id::MSIX]);
            assert_eq!(walk(&seen)[..2], [(0x40, id::POWER_MANAGEMENT), (0x60, id::MSIX)]);
            assert_eq!(seen[0x61], 0, "{next:#x}");
        }
    }

    #[test]
    fn extended_capabilities_are_relinked_and_the_first_keeps_its_place() {
        let list = [
            (0x100, 0x0f, 0x140),
            (0x140, 0x03, 0x150),
            (0x150, 0x10, 0x190),
            (0x190, 0x23, 0x1a0),
            (0x1a0, 0x13, 0),
        ];
        let (seen, _) = guest(&host(&[], &list), &[]);
        assert_eq!(walk_extended(&seen), [(0x100, 0), (0x140, 0x03), (0x190, 0x23)]);
        assert!(seen[0x104..0x140].iter().chain(&seen[0x150..0x190]).all(|byte| *byte == 0));
        assert!(seen[0x1a0..].iter().all(|byte| *byte == 0), "the last one reaches to the end");

        let (seen, _) =
            guest(&host(&[], &[(0x100, 0x01, 0x148), (0x148, 0x1b, 0x200), (0x200, 0x03, 0)]), &[]);
        assert_eq!(walk_extended(&seen), [(0x100, 0x01), (0x200, 0x03)]);
        let (seen, _) = guest(&host(&[], &[(0x100, 0x15, 0x148), (0x148, 0x1b, 0x100)]), &[]);
        assert_eq!(seen[0x100..0x104], [0; 4]);
    }

    #[test]
    fn a_device_with_an_ims_of_its_own_shows_none_and_keeps_its_other_vendor_specific_capabilities() {
        let intel = |dvsec: u16| [0x0181_8086, dvsec.into(), 1, 1, 1];
        let cxl = [0x0381_1e98, 5, 1, 1, 1];
        let mut device = host(&[], &[(0x100, 0x23, 0x140), (0x140, 0x23, 0x180), (0x180, 0x23, 0)]);
        for (offset, registers) in [(0x100, intel(4)), (0x140, intel(5)), (0x180, cxl)] {
            let bytes = registers.map(u32::to_le_bytes).concat();
            device[offset + 4..][..bytes.len()].copy_from_slice(&bytes);
        }
        let (seen, _) = guest(&device, &[]);
        assert_eq!(walk_extended(&seen), [(0x100, 0x23), (0x180, 0x23)]);
        assert!(seen[0x140..0x180].iter().all(|byte| *byte == 0));
        assert_eq!(seen[0x104..0x118], device[0x104..0x118]);
    }

    #[test]
    fn a_conventional_device_has_zeros_for_extended_space() {
        let host = &host(&[(0x40, id::MSIX, 0)], &[])[..256];
        let mut space = ConfigSpace::device(256);
        relink(&mut space, host, &[]);
        let mut extended = [0xff; 8];
        space.merge(0x100, &mut extended);
        assert_eq!(extended, [0; 8]);
        assert_eq!(find(host, id::MSIX), Some(0x40));
    }
}
