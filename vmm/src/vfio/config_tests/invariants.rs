//! What holds for every configuration space, whatever the device says of itself.

use std::collections::BTreeSet;

use vm_msi::ims::SiovDvsec;

use super::*;

/// Capabilities that work in a guest, with the names that `lspci` gives them.
pub(super) const WORKING: &[(u8, &str)] = &[
    (0x01, "Power Management"),
    (0x03, "Vital Product Data"),
    (0x05, "MSI"),
    (0x09, "Vendor Specific Information"),
    (0x10, "Express"),
    (0x11, "MSI-X"),
    (0x13, "PCI Advanced Features"),
];
/// The same of extended capabilities.
pub(super) const WORKING_EXTENDED: &[(u16, &str)] = &[
    (0x01, "Advanced Error Reporting"),
    (0x03, "Device Serial Number"),
    (0x0b, "Vendor Specific Information"),
    (0x23, "Designated Vendor-Specific"),
];

/// The device's list at 0x34, up to the first capability that cannot be.
fn host_list(host: &[u8]) -> Vec<(u16, u8)> {
    let mut list = Vec::new();
    let mut seen = BTreeSet::new();
    let mut at = usize::from(host[0x34] & 0xfc);
    while host[6] & 0x10 != 0 && at >= 0x40 && host[at] != 0xff && seen.insert(at) {
        list.push((at as u16, host[at]));
        at = usize::from(host[at + 1] & 0xfc);
    }
    list
}

/// The device's list at 0x100, up to the first capability that cannot be.
fn host_extended_list(host: &[u8]) -> Vec<(u16, u16)> {
    let mut list = Vec::new();
    let mut seen = BTreeSet::new();
    let mut at = 0x100;
    while at >= 0x100 && host.len() > at && seen.insert(at) {
        let header = u32::from_le_bytes(*host[at..].first_chunk().unwrap());
        if header == 0 || header == u32::MAX {
            break;
        }
        list.push((at as u16, header as u16));
        at = (header >> 20) as usize & 0xffc;
    }
    list
}

fn is_siov(host: &[u8], at: u16) -> bool {
    let dword = |at: usize| host.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; 4]);
    let registers = [0, 4, 8].map(|offset| u32::from_le_bytes(dword(usize::from(at) + offset)));
    SiovDvsec::is_at([registers[0] & 0xffff, registers[1], registers[2]])
}

/// Asserts all invariants for a device with these registers.
pub(in crate::vfio) fn assert_all(found: &[u8]) {
    let mut passed = assert_lists(found);
    no_emulated_register_reaches_the_device(&mut passed);
    a_reset_restores_the_view(&mut passed);
}

/// Asserts that the lists end, and that they have what works in a guest and hide no more than they may.
pub(super) fn assert_lists(found: &[u8]) -> Passed {
    let mut passed = Passed::new(found.to_vec());
    working_capabilities_are_listed_as_the_host_lists_them(&passed);
    no_register_between_capabilities_is_lost(&mut passed);
    passed
}

fn working_capabilities_are_listed_as_the_host_lists_them(passed: &Passed) {
    let mut seen = BTreeSet::new();
    let mut expected = host_list(&passed.found);
    expected.retain(|(_, id)| {
        let is_interrupt = [id::MSI, id::MSIX].contains(id);
        let works = WORKING.iter().any(|(working, _)| working == id);
        let works = works && (!is_interrupt || passed.interrupts.iter().any(|(emulated, _)| emulated == id));
        works && (seen.insert(*id) || *id == id::VENDOR_SPECIFIC)
    });
    assert_eq!(passed.list(), expected);
    let mut expected = host_extended_list(&passed.found);
    expected.retain(|(at, id)| {
        WORKING_EXTENDED.iter().any(|(working, _)| working == id) && !is_siov(&passed.found, *at)
    });
    assert_eq!(passed.extended_list(), expected);
}

fn no_register_between_capabilities_is_lost(passed: &mut Passed) {
    let mut owned = vec![false; passed.found.len().max(0x104)];
    owned[..0x40].fill(true);
    owned[0x100..0x104].fill(true);
    for bytes in capabilities::all(&passed.found) {
        for at in bytes {
            if let Some(owned) = owned.get_mut(usize::from(at)) {
                assert!(!*owned || (0x100..0x104).contains(&at), "{at:#x} is of two capabilities");
                *owned = true;
            }
        }
    }
    let view = passed.view();
    for at in (0..passed.found.len()).filter(|at| !owned[*at]) {
        assert_eq!(view[at], passed.found[at], "{at:#x}");
        assert_eq!(passed.config.write(at as u16, &[0x5a]).forwarded, [(at as u16, vec![0x5a])]);
    }
}

fn no_emulated_register_reaches_the_device(passed: &mut Passed) {
    let emulated = passed.interrupts.clone().into_iter().map(|(_, bytes)| bytes);
    for bytes in emulated.chain([COMMAND..COMMAND + 2, BAR0..0x2c, 0x30..0x40]) {
        for at in bytes {
            assert_eq!(passed.config.write(at, &[0xff]).forwarded, [], "{at:#x}");
        }
    }
}

fn a_reset_restores_the_view(passed: &mut Passed) {
    passed.reset();
    let at_reset = passed.view();
    for (step, value) in [(1, 0xff_u8), (5, 0x00), (3, 0x5a)] {
        for at in (0..0x1010).step_by(step) {
            for len in [1, 4] {
                passed.write(at, &vec![value; len]);
            }
        }
        passed.reset();
        let differs = passed.view().iter().zip(&at_reset).position(|(now, before)| now != before);
        assert_eq!(differs.map(|at| format!("{at:#x}")), None, "after writes of {value:#x}");
    }
}
