//! The lengths of extended capabilities that a guest does not see, from their own registers.
//!
//! A length counts from the capability's header. The caller clips it at the next capability of the list. An ID that is
//! not here has its header alone, for the reason that [`length`](super::length) gives. Pure. Sections are of PCIe r6.

use super::id;
use super::length::{self, is_bridge};
use super::list::{conventional, dword};

const HEADER: u16 = 4;

/// The length in bytes of the extended capability `id` at `offset`.
#[must_use]
pub(super) fn extended_length(host: &[u8], offset: u16, id: u16) -> u16 {
    let dword = |at: u16| dword(host, offset.saturating_add(at)).unwrap_or(0);
    // A field of a DWORD: its lowest bit and its width.
    let field = |at, low: u32, width: u32| (dword(at) >> low) & 1u32.wrapping_shl(width).wrapping_sub(1);
    let version = field(0, 16, 4);
    let bytes: u32 = match id {
        // §7.9.1, §7.9.2: virtual channels and multi-function virtual channels.
        0x02 | 0x08 | 0x09 => {
            let tables =
                if id == 0x08 || is_bridge(host) { ChannelTables::Present } else { ChannelTables::Absent };
            virtual_channels(dword, tables)
        }
        // §7.8.1: power budgeting.
        0x04 => 0x10,
        // §7.9.8: root complex link declaration, with a link entry for each element.
        0x05 => array(0x10, field(4, 8, 8), 0x10),
        // §7.9.9: root complex internal link control.
        0x06 => 0x0c,
        // §7.9.10: event collector. Version 2 adds a range of bus numbers.
        0x07 => {
            if version >= 2 {
                0x0c
            } else {
                0x08
            }
        }
        // §7.9.7: RCRB header.
        0x0a => 0x14,
        0x0d => access_control(dword(4)),
        // §7.8.8: ARI, §10.5.1: ATS, §7.8.2: LTR, §7.8.9: PASID. Lightweight notification requesters.
        0x0e | 0x0f | 0x18 | 0x1b | 0x1c => 0x08,
        // §9.3.3: SR-IOV.
        0x10 => 0x40,
        // §7.9.11: multicast. A port has an overlay BAR.
        0x12 => {
            if is_bridge(host) {
                0x30
            } else {
                0x28
            }
        }
        // §10.5.2: page requests.
        0x13 => 0x10,
        // §7.8.6, §7.8.7: resizable BARs. The first control register has their number.
        0x15 | 0x24 => array(0x04, field(8, 5, 3), 8),
        // §7.9.12: dynamic power allocation, one byte for each substate.
        0x16 => array(0x10, field(4, 0, 5).saturating_add(1), 1),
        // §7.9.13: TPH. The steering tags may be in the capability.
        0x17 => array(0x0c, if field(4, 9, 2) == 1 { field(4, 16, 11).saturating_add(1) } else { 0 }, 2),
        // §7.7.3: secondary PCI Express, with a word for each lane.
        0x19 => array(0x0c, lanes(host), 2),
        // Appendix G: protocol multiplexing.
        0x1a => array(0x10, field(4, 0, 6), 4),
        // §7.9.14: downstream port containment. A root port adds its PIO registers and their log.
        0x1d => {
            if field(4, 5, 1) == 1 {
                array(0x20, field(4, 8, 4), 4)
            } else {
                0x0c
            }
        }
        // §7.8.3: L1 PM substates. Version 2 has a status register.
        0x1e => {
            if version >= 2 {
                0x14
            } else {
                0x10
            }
        }
        // §7.9.15: precision time measurement.
        0x1f => 0x0c,
        // §7.8.10: function readiness status queueing.
        0x21 => 0x10,
        // §7.9.16: readiness time reporting, §7.7.4: data link feature.
        0x22 | 0x25 => 0x0c,
        // §7.9.6: the length is in the first DVSEC header.
        id::DESIGNATED_VENDOR_SPECIFIC => field(4, 20, 12).max(0x0a),
        // §7.7.5, §7.7.6: physical layer of 16.0 and 32.0 GT/s, with a byte for each lane.
        0x26 | 0x2a => array(0x20, lanes(host), 1),
        // §7.7.8: lane margining, with a DWORD for each lane.
        0x27 => array(0x08, lanes(host), 4),
        // §7.9.17: hierarchy ID.
        0x28 => 0x20,
        // §7.9.19: native enclosure management.
        0x29 => 0x10,
        // System firmware intermediary.
        0x2c => 0x14,
        // §7.9.24: data object exchange.
        0x2e => 0x18,
        // Device 3.
        0x2f => 0x10,
        // §7.7.7: physical layer of 64.0 GT/s, with a byte for each lane.
        0x31 => array(0x10, lanes(host), 1),
        _ => HEADER.into(),
    };
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

fn array(first: u32, elements: u32, bytes: u32) -> u32 {
    first.saturating_add(elements.saturating_mul(bytes))
}

/// Whether each channel may have an arbitration table. An endpoint has none for its ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ChannelTables {
    Present,
    Absent,
}

/// §7.9.1: three DWORDs for each channel, and the arbitration tables behind them. A table is where its offset says, in
/// units of 16 bytes. Offset 0 is no table.
fn virtual_channels(dword: impl Fn(u16) -> u32, tables: ChannelTables) -> u32 {
    const FIRST_CHANNEL: u16 = 0x10;
    let port = dword(0x04);
    let channels = (port & 0b111).saturating_add(1);
    let arbitration = dword(0x08);
    let phases = match arbitration & 0b1111 {
        bits if bits & 0b1000 != 0 => 128,
        bits if bits & 0b0100 != 0 => 64,
        bits if bits & 0b0010 != 0 => 32,
        _ => 0,
    };
    let mut end = array(FIRST_CHANNEL.into(), channels, 12).max(table_end(arbitration >> 24, phases, 4));
    if tables == ChannelTables::Absent {
        return end;
    }
    let entry_bits = 1u32 << ((port >> 10) & 0b11);
    for channel in 0..channels {
        let at = FIRST_CHANNEL.saturating_add(u16::try_from(channel).unwrap_or(0).saturating_mul(12));
        let resource = dword(at);
        let phases = match resource & 0b11_1111 {
            bits if bits & 0b10_0000 != 0 => 256,
            bits if bits & 0b01_1000 != 0 => 128,
            bits if bits & 0b00_0100 != 0 => 64,
            bits if bits & 0b00_0010 != 0 => 32,
            _ => 0,
        };
        end = end.max(table_end(resource >> 24, phases, entry_bits));
    }
    end
}

/// The end of an arbitration table, or 0 without one.
fn table_end(offset: u32, phases: u32, bits: u32) -> u32 {
    if offset == 0 { 0 } else { array(offset.saturating_mul(16), phases.saturating_mul(bits) / 8, 1) }
}

/// §7.7.11: egress control has one bit for each port or function, in whole DWORDs. Size 0 is 256.
fn access_control(register: u32) -> u32 {
    const EGRESS_CONTROL: u32 = 1 << 5;
    let bits = match (register >> 8) & 0xff {
        0 => 256,
        bits => bits,
    };
    array(8, if register & EGRESS_CONTROL == 0 { 0 } else { bits.div_ceil(32) }, 4)
}

/// The lanes of the link: Maximum Link Width (§7.5.3.6). A function without a link has none.
fn lanes(host: &[u8]) -> u32 {
    const LINK_CAPABILITIES: u16 = 0x0c;
    let express = conventional(host).into_iter().find(|(_, id)| *id == id::PCI_EXPRESS);
    let register = express.filter(|(at, id)| length::length(host, *at, *id) > LINK_CAPABILITIES);
    let register = register.and_then(|(at, _)| dword(host, at.saturating_add(LINK_CAPABILITIES)));
    register.map_or(0, |register| (register >> 4) & 0x3f)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of an extended capability with these DWORDs behind its header, in an endpoint of eight lanes.
    fn of(id: u16, version: u32, dwords: &[u32]) -> u16 {
        let mut host = vec![0; 4096];
        host[6] = 0x10;
        host[0x34] = 0x40;
        host[0x40..0x50].copy_from_slice(&[0x10, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x83, 0, 0, 0]);
        let header = [u32::from(id) | version << 16];
        let bytes = header.iter().chain(dwords).flat_map(|dword| dword.to_le_bytes());
        for (byte, value) in host[0x200..].iter_mut().zip(bytes) {
            *byte = value;
        }
        extended_length(&host, 0x200, id)
    }

    #[test]
    fn capabilities_of_fixed_length_have_it() {
        for (ids, expected) in [
            (&[0x0e, 0x0f, 0x18, 0x1b, 0x1c][..], 8),
            (&[0x06, 0x1f, 0x22, 0x25], 0x0c),
            (&[0x04, 0x13, 0x21, 0x29, 0x2f], 0x10),
            (&[0x0a, 0x2c], 0x14),
            (&[0x2e], 0x18),
            (&[0x12], 0x28),
            (&[0x10], 0x40),
        ] {
            for id in ids {
                assert_eq!((of(*id, 1, &[]), of(*id, 1, &[u32::MAX])), (expected, expected), "{id:#x}");
            }
        }
    }

    #[test]
    fn virtual_channels_end_behind_their_last_arbitration_table() {
        assert_eq!(of(0x02, 1, &[0, 0, 0]), 0x1c, "one channel");
        assert_eq!(of(0x02, 1, &[1, 0, 0]), 0x28);
        assert_eq!(of(0x02, 1, &[7, 0, 0]), 0x10 + 8 * 12);
        // Two channels. The table of 32 phases is at 0x30, with 4 bits for each phase.
        assert_eq!(of(0x09, 1, &[1, 0x0300_0002, 0]), 0x30 + 16);
        assert_eq!(of(0x09, 1, &[1, 0x0300_0008, 0]), 0x30 + 64);
        // Port arbitration of the first channel, 128 phases of 8 bits, at 0x40.
        assert_eq!(of(0x08, 1, &[0xc00, 0, 0, 0x0400_0008]), 0x40 + 128);
        assert_eq!(of(0x08, 1, &[0xc00, 0, 0, 0x0000_0008]), 0x1c, "there is no table at 0");
        assert_eq!(of(0x02, 1, &[0xc00, 0, 0, 0x0400_0008]), 0x1c, "an endpoint has no ports to arbitrate");
    }

    #[test]
    fn capabilities_that_hold_arrays_are_as_long_as_these() {
        assert_eq!((of(0x05, 1, &[0]), of(0x05, 1, &[0x0300])), (0x10, 0x40));
        assert_eq!((of(0x15, 1, &[0, 1 << 5]), of(0x15, 1, &[0, 6 << 5])), (0x0c, 0x34));
        assert_eq!((of(0x16, 1, &[0]), of(0x16, 1, &[0x1f])), (0x11, 0x30));
        assert_eq!((of(0x0d, 1, &[0x0400]), of(0x0d, 1, &[0x0420])), (8, 12));
        assert_eq!((of(0x0d, 1, &[0x2120]), of(0x0d, 1, &[0x0020])), (16, 40));
        // Steering tags: none, in the capability, in the MSI-X table.
        assert_eq!((of(0x17, 1, &[0x003f_0000]), of(0x17, 1, &[0x003f_0200])), (0x0c, 0x0c + 128));
        assert_eq!(of(0x17, 1, &[0x003f_0400]), 0x0c);
        assert_eq!((of(0x1a, 1, &[0]), of(0x1a, 1, &[3])), (0x10, 0x1c));
        assert_eq!((of(0x1d, 1, &[0x0400]), of(0x1d, 1, &[0x0420])), (0x0c, 0x30));
    }

    #[test]
    fn capabilities_of_the_link_are_as_long_as_it_has_lanes() {
        assert_eq!((of(0x19, 1, &[]), of(0x26, 1, &[]), of(0x27, 1, &[])), (0x1c, 0x28, 0x28));
        assert_eq!((of(0x2a, 1, &[]), of(0x31, 1, &[])), (0x28, 0x18));
        assert_eq!(extended_length(&[0; 4096], 0x200, 0x19), 0x0c, "no link");
    }

    #[test]
    fn later_versions_are_longer() {
        assert_eq!((of(0x07, 1, &[]), of(0x07, 2, &[])), (8, 12));
        assert_eq!((of(0x1e, 1, &[]), of(0x1e, 2, &[])), (0x10, 0x14));
    }

    #[test]
    fn a_designated_vendors_capability_says_its_own_length() {
        assert_eq!(of(0x23, 1, &[0x0181_8086]), 0x18);
        assert_eq!(of(0x23, 1, &[0]), 0x0a, "both of its headers");
    }

    #[test]
    fn an_unknown_capability_has_its_header_and_no_input_is_too_short() {
        assert_eq!([0, 0x11, 0x14, 0x30, 0x38, 0xfffe].map(|id| of(id, 1, &[u32::MAX; 8])), [4; 6]);
        for id in 0..0x100 {
            for host in [&[][..], &[0xff; 0x1000]] {
                assert!(extended_length(host, 0xffc, id) >= 4, "{id:#x}");
            }
        }
    }
}
