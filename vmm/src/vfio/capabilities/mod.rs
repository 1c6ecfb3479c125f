//! The capability lists that the guest sees (PCIe r6 §7.5.1.1.11, §7.6.3).
//!
//! An exposed capability keeps its offset and gets a new next pointer. All others are hidden: no pointer leads to
//! them, and their bytes read zero. The tables below list the capabilities that work in a guest. All others, known or
//! not, are hidden, so that no driver uses one that does not work. Scalable IOV is hidden: the device's own IMS is
//! not emulated, and the host must not accept messages that a guest writes to it. Pure: the host's configuration
//! space becomes registers of a [`ConfigSpace`].
//!
//! Invariant: the bytes of two capabilities never overlap. A capability has the bytes that the specification gives it,
//! up to the next capability of the host's list. All bytes between capabilities are registers of the device, and the
//! guest's accesses to them reach it. Drivers depend on such registers.
//!
//! | part | owns |
//! |---|---|
//! | `list` | the walk over the host's lists |
//! | `length`, `extended_length` | the lengths that the specification gives capabilities |

mod extended_length;
mod length;
mod list;

use std::collections::BTreeMap;
use std::ops::Range;

use vm_msi::ims::SiovDvsec;

use self::list::{CONVENTIONAL_END, EXTENDED_END, EXTENDED_FIRST, List, POINTER, STATUS_CAPABILITIES, dword};
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

/// The bytes of the exposed capabilities in the first 256 bytes: the first of each ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExposedCapabilities(BTreeMap<u8, Range<u16>>);

impl ExposedCapabilities {
    /// The capability's bytes from its ID on, if the guest sees it.
    #[must_use]
    pub fn of(&self, id: u8) -> Option<Range<u16>> {
        self.0.get(&id).cloned()
    }
}

/// The offset of a capability of the device, exposed or not.
#[must_use]
pub fn find(host: &[u8], id: u8) -> Option<u16> {
    list::conventional(host).into_iter().find(|(_, found)| *found == id).map(|(offset, _)| offset)
}

/// The bytes from `offset` to the next capability of the device, or to the end of the list's area.
#[must_use]
pub fn room(host: &[u8], offset: u16) -> Range<u16> {
    list::bytes(&list::conventional(host), offset, CONVENTIONAL_END, CONVENTIONAL_END)
}

/// The bytes of all capabilities of the device, of both lists.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn all(host: &[u8]) -> Vec<Range<u16>> {
    let (list, extended) = (list::conventional(host), list::extended(host));
    let conventional = list.iter().map(|(offset, id)| {
        list::bytes(&list, *offset, length::length(host, *offset, *id), CONVENTIONAL_END)
    });
    let extended = extended.iter().map(|(offset, id)| {
        let len = extended_length::extended_length(host, *offset, *id);
        list::bytes(&extended, *offset, len, EXTENDED_END)
    });
    conventional.chain(extended).collect()
}

/// Builds the guest's capability lists in `space` from the host's configuration space. Capabilities with an ID in
/// `emulated` are exposed, too. Their owner emulates the registers.
pub fn relink(space: &mut ConfigSpace, host: &[u8], emulated: &[u8]) -> ExposedCapabilities {
    let list = list::conventional(host);
    let mut exposed = ExposedCapabilities::default();
    let mut pointer = POINTER;
    space.hide(POINTER, 4);
    for (offset, id) in &list {
        let bytes = list::bytes(&list, *offset, length::length(host, *offset, *id), CONVENTIONAL_END);
        let Some(registers) = registers_of(*id, emulated, &exposed) else {
            space.hide(*offset, bytes.len());
            continue;
        };
        space.fix(pointer, &[offset.to_le_bytes()[0]]);
        space.fix(*offset, &[*id, 0]);
        space.define_within(bytes.clone(), registers);
        exposed.0.entry(*id).or_insert(bytes);
        pointer = offset.saturating_add(1);
    }
    let has_list = if exposed.0.is_empty() { 0 } else { u32::from(STATUS_CAPABILITIES) };
    space.define(0, &[Register { reset: has_list, ..registers::STATUS }]);
    relink_extended(space, host);
    exposed
}

/// The registers of a capability that the guest sees. Only vendor-specific capabilities may occur twice: another one of
/// an exposed ID is hidden, because nothing emulates its registers.
fn registers_of(id: u8, emulated: &[u8], exposed: &ExposedCapabilities) -> Option<&'static [Register]> {
    let registers = EXPOSED.iter().find(|exposed| exposed.id == id).map(|exposed| exposed.registers);
    let registers = registers.or(emulated.contains(&id).then_some(&[][..]));
    registers.filter(|_| id == id::VENDOR_SPECIFIC || !exposed.0.contains_key(&id))
}

fn relink_extended(space: &mut ConfigSpace, host: &[u8]) {
    let list = list::extended(host);
    let (kept, hidden): (List<u16>, List<u16>) =
        list.iter().copied().partition(|(offset, id)| is_exposed_extended(host, *offset, *id));
    for (offset, id) in hidden {
        let len = extended_length::extended_length(host, offset, id);
        space.hide(offset, list::bytes(&list, offset, len, EXTENDED_END).len());
    }
    let kept: Vec<u16> = kept.into_iter().map(|(offset, _)| offset).collect();
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

fn is_exposed_extended(host: &[u8], offset: u16, id: u16) -> bool {
    let [second, third] = [4, 8].map(|at| dword(host, offset.saturating_add(at)).unwrap_or(0));
    EXPOSED_EXTENDED.contains(&id) && !SiovDvsec::is_at([id.into(), second, third])
}

/// An extended capability's header: ID and version of `own`, with another next pointer.
fn header(own: u32, next: u16) -> [u8; 4] {
    ((own & 0x000f_ffff) | (u32::from(next) << 20)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::list::{conventional as walk, extended as walk_extended};
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
    fn guest(host: &[u8], emulated: &[u8]) -> (Vec<u8>, ExposedCapabilities) {
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
        assert_eq!((offsets.of(id::MSIX), offsets.of(id::MSI)), (Some(0x80..0x8c), None));
        assert!(seen[0x40..0x4e].iter().all(|byte| *byte == 0), "MSI with a 64-bit address");
        assert_eq!(seen[0x4e..0x58], [0xee; 10]);
        assert!(seen[0x70..0x78].iter().all(|byte| *byte == 0), "the SATA capability");
        assert_eq!(seen[0x78..0x80], [0xee; 8], "registers between capabilities are the device's");
        assert_eq!(seen[0x90..0xa0], [0xee; 0x10], "and so are registers outside of the list");
    }

    #[test]
    fn registers_behind_a_hidden_msi_capability_stay() {
        let mut host = host(&[(0x70, id::POWER_MANAGEMENT, 0x80), (0x80, id::MSI, 0)], &[]);
        for (control, len) in [(0x00, 10), (0x80, 14), (0x100, 20), (0x180, 24)] {
            host[0x82..0x84].copy_from_slice(&u16::to_le_bytes(control));
            let (seen, _) = guest(&host, &[]);
            assert_eq!(walk(&seen), [(0x70, id::POWER_MANAGEMENT)]);
            assert_eq!((seen[0x7f + len], seen[0x80 + len]), (0, 0xee), "{control:#x}");
        }
    }

    #[test]
    fn a_device_that_keeps_nothing_has_no_list() {
        let (seen, offsets) = guest(&host(&[(0x40, id::MSI, 0x60), (0x60, id::MSIX, 0)], &[]), &[]);
        assert_eq!((seen[6] & STATUS_CAPABILITIES, seen[0x34]), (0, 0));
        assert_eq!(offsets, ExposedCapabilities::default());
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
        assert!(seen[0x150..0x190].iter().all(|byte| *byte == 0), "SR-IOV reaches to the next one");
        assert!(seen[0x1a0..0x1b0].iter().all(|byte| *byte == 0), "page requests");
        assert_eq!(seen[0x104..0x108], [0; 4], "ATS");
        assert_eq!(seen[0x108..0x140], [0xee; 0x38], "registers of the device behind ATS");
        assert_eq!(seen[0x1b0..], [0xee; 0xe50]);

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
        assert!(seen[0x140..0x158].iter().all(|byte| *byte == 0));
        assert_eq!(seen[0x158..0x180], device[0x158..0x180]);
        assert_eq!(seen[0x104..0x118], device[0x104..0x118]);
    }

    #[test]
    fn an_unknown_capability_is_hidden_but_for_the_registers_behind_its_header() {
        let (seen, _) = guest(
            &host(
                &[(0x40, 0x7f, 0x60), (0x60, id::POWER_MANAGEMENT, 0)],
                &[(0x100, 0x7f, 0x120), (0x120, 3, 0)],
            ),
            &[],
        );
        assert_eq!((walk(&seen), walk_extended(&seen)), (vec![(0x60, 1)], vec![(0x100, 0), (0x120, 3)]));
        assert_eq!(seen[0x40..0x44], [0, 0, 0xee, 0xee]);
        assert_eq!(seen[0x104..0x120], [0xee; 0x1c]);
    }

    #[test]
    fn a_second_capability_of_an_id_is_hidden_unless_it_is_a_vendors() {
        let list = [(0x40, id::VENDOR_SPECIFIC, 0x50), (0x50, id::MSIX, 0x60), (0x60, id::MSIX, 0x70)];
        let list = [&list[..], &[(0x70, id::VENDOR_SPECIFIC, 0x80), (0x80, 1, 0x90), (0x90, 1, 0)]].concat();
        let (seen, offsets) = guest(&host(&list, &[]), &[id::MSIX]);
        assert_eq!(walk(&seen), [(0x40, 9), (0x50, 0x11), (0x70, 9), (0x80, 1)]);
        assert_eq!((offsets.of(id::MSIX), offsets.of(1)), (Some(0x50..0x5c), Some(0x80..0x88)));
        assert!(seen[0x60..0x6c].iter().chain(&seen[0x90..0x98]).all(|byte| *byte == 0));
        assert_eq!((seen[0x6c], seen[0x98]), (0xee, 0xee));
    }

    #[test]
    fn the_room_of_a_capability_ends_at_the_next_one() {
        let host = host(&[(0x80, 9, 0x40), (0x40, id::MSI, 0x50), (0x50, id::MSIX, 0)], &[]);
        assert_eq!(
            [0x40, 0x50, 0x80].map(|offset| room(&host, offset)),
            [0x40..0x50, 0x50..0x80, 0x80..0x100]
        );
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
