//! The lengths of capabilities in the first 256 bytes, from their own registers.
//!
//! A length counts from the capability's ID. The caller clips it at the next capability of the list. An ID that is not
//! here has only its ID and next pointer: the bytes behind them may be any register of the device. VFIO treats an ID
//! that it does not know in the same way. It takes the capability out of the list and lets all accesses to it through.
//! Pure. Sections are of PCIe r6 unless they name another specification.

use super::id;
use super::list::{byte, dword};

/// ID and next pointer.
const HEADER: u16 = 2;

/// The length in bytes of the capability `id` at `offset`.
#[must_use]
pub(super) fn length(host: &[u8], offset: u16, id: u8) -> u16 {
    let word = |at: u16| {
        let [low, high] = [at, at.saturating_add(1)].map(|at| byte(host, offset.saturating_add(at)));
        u16::from_le_bytes([low.unwrap_or(0), high.unwrap_or(0)])
    };
    match id {
        id::POWER_MANAGEMENT => 8,
        // AGP 3.0 §6.1.
        0x02 => 12,
        id::VITAL_PRODUCT_DATA => 8,
        // PCI-to-PCI bridge 1.2 §3.2.6: slot identification.
        0x04 => 4,
        id::MSI => msi(word(2)),
        // PICMG 2.1: CompactPCI hot swap.
        0x06 => 4,
        0x07 => pci_x(word(2), is_bridge(host)),
        0x08 => hypertransport(word(2)),
        id::VENDOR_SPECIFIC => (word(2) & 0xff).max(HEADER + 1),
        // EHCI 1.0 §C.2: debug port.
        0x0a => 4,
        // Standard hot-plug controller 1.0 §4.9.
        0x0c => 8,
        // PCI-to-PCI bridge 1.2 §3.2.7: subsystem IDs.
        0x0d => 8,
        id::PCI_EXPRESS => express(word(2)),
        id::MSIX => 12,
        // Serial ATA AHCI 1.3.1 §2.5: an index-data pair within configuration space adds two DWORDs.
        0x12 => 8u16.saturating_add(if word(4) & 0xf == 0xf { 8 } else { 0 }),
        id::ADVANCED_FEATURES => 6,
        0x14 => enhanced_allocation(host, offset),
        // §7.8.11: flattening portal bridge.
        0x15 => 0x24,
        _ => HEADER,
    }
}

/// Whether the header is of type 1.
pub(super) fn is_bridge(host: &[u8]) -> bool {
    byte(host, 0x0e).is_some_and(|header| header & 0x7f == 1)
}

/// §7.7.1: bit 7 of Message Control is a 64-bit address, bit 8 is a mask bit for each vector.
fn msi(control: u16) -> u16 {
    let address = if control & (1 << 7) != 0 { 4 } else { 0 };
    let masks = if control & (1 << 8) != 0 { 10 } else { 0 };
    10u16.saturating_add(address).saturating_add(masks)
}

/// PCI-X 2.0 §7.2 and §8.6.2: bits 13:12 of the second word are the version. Versions 1 and 2 have error correction.
fn pci_x(word: u16, is_bridge: bool) -> u16 {
    match ((word >> 12) & 0b11, is_bridge) {
        (0, false) => 8,
        (0, true) => 0x10,
        (_, false) => 0x18,
        (_, true) => 0x20,
    }
}

/// HyperTransport 3.10 §7: the type is in bits 15:13 of the command register if these are 000 or 001, else in bits
/// 15:11. A type that is not here has its command register.
fn hypertransport(command: u16) -> u16 {
    const FIXED_ADDRESS: u16 = 1 << 1;
    match command >> 11 {
        0b00000..=0b00011 => 28,
        0b00100..=0b00111 => 24,
        // Interrupt discovery: an index and a data register.
        0b10000 => 8,
        0b10010 | 0b10011 => 12,
        0b10101 if command & FIXED_ADDRESS == 0 => 12,
        _ => 4,
    }
}

/// §7.5.3: an integrated endpoint and an event collector have no link. Version 1 ends behind the last register that the
/// port type has. Some virtual functions report version 0 and have the registers of version 1.
fn express(capabilities: u16) -> u16 {
    const ROOT_PORT: u16 = 4;
    const DOWNSTREAM_PORT: u16 = 6;
    const INTEGRATED_ENDPOINT: u16 = 9;
    const EVENT_COLLECTOR: u16 = 10;
    match (capabilities & 0xf, (capabilities >> 4) & 0xf) {
        (0 | 1, INTEGRATED_ENDPOINT) => 0x0c,
        (0 | 1, DOWNSTREAM_PORT) => 0x1c,
        (0 | 1, ROOT_PORT | EVENT_COLLECTOR) => 0x24,
        (0 | 1, _) => 0x14,
        (_, INTEGRATED_ENDPOINT | EVENT_COLLECTOR) => 0x2c,
        _ => 0x3c,
    }
}

/// §7.8.5: entries of 1 to 8 DWORDs behind one DWORD, or behind two in a bridge.
fn enhanced_allocation(host: &[u8], offset: u16) -> u16 {
    let entries = byte(host, offset.saturating_add(2)).unwrap_or(0) & 0x3f;
    let first = if is_bridge(host) { 8u16 } else { 4 };
    (0..entries).fold(first, |len, _| {
        let size = dword(host, offset.saturating_add(len)).unwrap_or(0) & 0b111;
        let dwords = u16::try_from(size).unwrap_or(0).saturating_add(1);
        len.saturating_add(dwords.saturating_mul(4))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of a capability with these bytes at 0x40 of an endpoint.
    fn of(bytes: &[u8]) -> u16 {
        let mut host = vec![0; 256];
        host[0x40..][..bytes.len()].copy_from_slice(bytes);
        length(&host, 0x40, bytes[0])
    }

    fn with_word(id: u8, word: u16) -> u16 {
        let [low, high] = word.to_le_bytes();
        of(&[id, 0, low, high])
    }

    #[test]
    fn msi_has_a_length_for_each_form_of_its_message() {
        assert_eq!([0, 0x80, 0x100, 0x180].map(|control| with_word(id::MSI, control)), [10, 14, 20, 24]);
        assert_eq!(with_word(id::MSI, 0x00ff & !0x80), 10, "other bits say nothing");
    }

    #[test]
    fn express_is_as_long_as_its_version_and_port_type() {
        let lengths = |version: u16| [0, 1, 4, 6, 9, 10].map(|port| with_word(0x10, version | port << 4));
        assert_eq!(lengths(1), [0x14, 0x14, 0x24, 0x1c, 0x0c, 0x24]);
        assert_eq!(lengths(2), [0x3c, 0x3c, 0x3c, 0x3c, 0x2c, 0x2c]);
        assert_eq!((lengths(0), lengths(3)), (lengths(1), lengths(2)));
    }

    #[test]
    fn pci_x_is_longer_with_error_correction_and_in_a_bridge() {
        assert_eq!([0, 0x1000, 0x2000].map(|word| with_word(0x07, word)), [8, 24, 24]);
        let mut bridge = vec![0; 256];
        bridge[0x0e] = 0x81;
        assert_eq!(length(&bridge, 0x40, 0x07), 16);
        bridge[0x43] = 0x10;
        assert_eq!(length(&bridge, 0x40, 0x07), 32);
    }

    #[test]
    fn sata_is_longer_with_its_registers_in_configuration_space() {
        assert_eq!(of(&[0x12, 0, 0x10, 0, 0x48, 0]), 8);
        assert_eq!(of(&[0x12, 0, 0x10, 0, 0x4f, 0]), 16);
    }

    #[test]
    fn hypertransport_has_a_length_for_each_type() {
        for (command, expected) in [
            (0x0000, 28),
            (0x1800, 28),
            (0x2000, 24),
            (0x8000, 8),
            (0x8800, 4),
            (0x9000, 12),
            (0x9800, 12),
            (0xa800, 12),
            (0xa803, 4),
            (0xf800, 4),
        ] {
            assert_eq!(with_word(0x08, command), expected, "{command:#x}");
        }
    }

    #[test]
    fn a_vendors_capability_says_its_own_length() {
        assert_eq!(of(&[0x09, 0, 0x14]), 0x14);
        assert_eq!(of(&[0x09, 0, 0xff]), 0xff);
        assert_eq!(of(&[0x09, 0, 0]), 3, "the length byte itself");
    }

    #[test]
    fn enhanced_allocation_is_as_long_as_its_entries() {
        assert_eq!(of(&[0x14, 0, 0]), 4);
        let mut two = vec![0x14, 0, 2, 0];
        two.extend([[4, 0, 0, 0], [0; 4], [0; 4], [0; 4], [0; 4], [2, 0, 0, 0]].concat());
        assert_eq!(of(&two), 4 + 20 + 12);
        assert_eq!(length(&[0xff; 256], 0xfc, 0x14), 4 + 63 * 4, "missing bytes read 0");
    }

    #[test]
    fn an_unknown_capability_has_its_header_and_no_input_is_too_short() {
        assert_eq!([0x00, 0x0b, 0x0e, 0x16, 0xfe].map(|id| with_word(id, 0xffff)), [2; 5]);
        for id in 0..=u8::MAX {
            assert!((2..=0x1000).contains(&length(&[], u16::MAX, id)), "{id:#x}");
        }
    }
}
