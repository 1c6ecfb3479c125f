//! The capability lists that the guest sees (PCIe r6 §7.5.1.1.11, §7.6.3).
//!
//! An exposed capability keeps its offset and gets a new next pointer. All others are hidden: no pointer leads to
//! them, and their bytes read zero. The tables below list the capabilities that work in a guest. All others, known or
//! not, are hidden, so that no driver uses one that does not work. Scalable IOV is hidden: the device's own IMS is
//! not emulated, and the host must not accept messages that a guest writes to it. Pure: the host's configuration
//! space becomes registers of a [`ConfigSpace`].

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

/// An exposed capability, and its registers that are not read from the device.
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

/// A capability list in list order: offset and ID. An ID may occur several times, an offset once.
type List<I> = Vec<(u16, I)>;

/// Offsets of the exposed capabilities in the first 256 bytes: the first of each ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapabilityOffsets(BTreeMap<u8, u16>);

impl CapabilityOffsets {
    /// The capability's offset, if the guest sees it.
    #[must_use]
    pub fn of(&self, id: u8) -> Option<u16> {
        self.0.get(&id).copied()
    }
}

/// The offset of a capability of the device, exposed or not.
#[must_use]
pub fn find(host: &[u8], id: u8) -> Option<u16> {
    walk(host).into_iter().find(|(_, found)| *found == id).map(|(offset, _)| offset)
}

/// Builds the guest's capability lists in `space` from the host's configuration space. Capabilities with an ID in
/// `emulated` are exposed, too. Their owner emulates the registers.
pub fn relink(space: &mut ConfigSpace, host: &[u8], emulated: &[u8]) -> CapabilityOffsets {
    let list = walk(host);
    let registers = |id: u8| {
        let exposed = EXPOSED.iter().find(|exposed| exposed.id == id).map(|exposed| exposed.registers);
        exposed.or(emulated.contains(&id).then_some(&[][..]))
    };
    for (offset, id, len) in hidden(&list, CONVENTIONAL_END, |_, id| registers(id).is_some()) {
        // The bytes behind a capability of known length may be device registers.
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
        // Only vendor-specific capabilities may occur twice. The tables apply to the first of each ID.
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
    // The extended list always starts at 0x100. A hidden capability there becomes a null capability with a next
    // pointer.
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

/// An extended capability's header: ID and version of `own`, with another next pointer.
fn header(own: u32, next: u16) -> [u8; 4] {
    ((own & 0x000f_ffff) | (u32::from(next) << 20)).to_le_bytes()
}

/// The hidden capabilities with their maximum lengths: each ends where the next one starts.
fn hidden<I: Copy>(list: &List<I>, end: u16, exposed: impl Fn(u16, I) -> bool) -> Vec<(u16, I, usize)> {
    let len = |offset: u16| {
        let starts = list.iter().map(|(other, _)| *other).filter(|other| *other > offset);
        usize::from(starts.min().unwrap_or(end).saturating_sub(offset))
    };
    let hidden = list.iter().filter(|(offset, id)| !exposed(*offset, *id));
    hidden.map(|(offset, id)| (*offset, *id, len(*offset))).collect()
}

/// The list at 0x34. The walk ends at a loop, an offset outside the area, or a missing capability.
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
    fn the_guests_list_has_the_exposed_capabilities_and_ends() {
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
