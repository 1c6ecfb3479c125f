//! Devices that are not what their registers say, or that a guest's driver reaches past the emulated registers.
//!
//! Owns the table of known devices. A quirk is either handled, or a warning names what does not work. QEMU handles the
//! same devices in `hw/vfio/pci-quirks.c` and `hw/vfio/pci.c`. Pure.

use std::ops::RangeInclusive;

/// Base class of display controllers (PCI Code and ID Assignment r1.11 §1.4).
const DISPLAY: u8 = 0x03;

const CHELSIO: u16 = 0x1425;
const BAIDU: u16 = 0x1d22;
const REALTEK: u16 = 0x10ec;
const NVIDIA: u16 = 0x10de;
const ATI: u16 = 0x1002;
const INTEL: u16 = 0x8086;

/// The registers that identify a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Base class.
    pub class: u8,
}

impl Identity {
    /// From configuration space. `None` if it is shorter than a header.
    #[must_use]
    pub fn of(registers: &[u8]) -> Option<Self> {
        let [v0, v1, d0, d1, _, _, _, _, _, _, _, class, ..] = *registers else {
            return None;
        };
        Some(Self { vendor: u16::from_le_bytes([v0, v1]), device: u16::from_le_bytes([d0, d1]), class })
    }

    /// The device's quirks.
    pub fn quirks(self) -> impl Iterator<Item = &'static Quirk> {
        QUIRKS.iter().filter(move |quirk| quirk.fits(self))
    }

    /// The offset of the pending bits in their BAR, for a device whose capability gives an offset outside of the BAR.
    #[must_use]
    pub fn pba_offset(self) -> Option<u32> {
        self.quirks().find_map(|quirk| match quirk.effect {
            Effect::PbaOffset(offset) => Some(offset),
            Effect::Unhandled(_) => None,
        })
    }

    /// What does not work with the device, one line each.
    pub fn warnings(self) -> impl Iterator<Item = &'static str> {
        self.quirks().filter_map(|quirk| match quirk.effect {
            Effect::Unhandled(warning) => Some(warning),
            Effect::PbaOffset(_) => None,
        })
    }
}

/// A known property of devices.
#[derive(Debug)]
pub struct Quirk {
    vendor: u16,
    devices: &'static [RangeInclusive<u16>],
    class: Option<u8>,
    effect: Effect,
}

/// What the VMM does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The MSI-X capability gives an offset outside of the BAR. The pending bits are at this one.
    PbaOffset(u32),
    /// It is not handled. The line says what does not work.
    Unhandled(&'static str),
}

impl Quirk {
    fn fits(&self, device: Identity) -> bool {
        self.vendor == device.vendor
            && self.devices.iter().any(|ids| ids.contains(&device.device))
            && self.class.is_none_or(|class| class == device.class)
    }
}

const ANY: &[RangeInclusive<u16>] = &[0..=u16::MAX];

/// The known devices. `docs/vmm.md` lists them, too.
const QUIRKS: &[Quirk] = &[
    // T5's virtual functions give 0x8000, in a BAR of 8 KiB.
    Quirk { vendor: CHELSIO, devices: &[0x5800..=0x58ff], class: None, effect: Effect::PbaOffset(0x1000) },
    // Kunlun's virtual functions give 0x460000, in a BAR of 64 KiB.
    Quirk { vendor: BAIDU, devices: &[0x3685..=0x3685], class: None, effect: Effect::PbaOffset(0xb400) },
    Quirk {
        vendor: REALTEK,
        devices: &[0x8168..=0x8168],
        class: None,
        effect: Effect::Unhandled(
            "a driver that sets MSI-X up through registers 0x70 and 0x74 of BAR 2 gets no interrupts, as some for \
             Windows do",
        ),
    },
    Quirk {
        vendor: NVIDIA,
        devices: ANY,
        class: Some(DISPLAY),
        effect: Effect::Unhandled(
            "BAR 0 mirrors configuration space at 0x1800 and 0x88000: a driver that uses the mirror sees the host's \
             BARs and interrupts",
        ),
    },
    Quirk {
        vendor: ATI,
        devices: ANY,
        class: Some(DISPLAY),
        effect: Effect::Unhandled(
            "BAR 2 mirrors configuration space at 0x4000, and I/O BAR 4 leads there: a driver that uses the mirror \
             sees the host's BARs",
        ),
    },
    // Bonaire and Hawaii.
    Quirk {
        vendor: ATI,
        devices: &[0x6649..=0x6658, 0x665c..=0x665d, 0x67a0..=0x67be],
        class: Some(DISPLAY),
        effect: Effect::Unhandled(
            "a bus reset does not reset this GPU: its driver may fail when the guest starts a second time",
        ),
    },
    Quirk {
        vendor: INTEL,
        devices: ANY,
        class: Some(DISPLAY),
        effect: Effect::Unhandled(
            "the guest gets no OpRegion, no host bridge of this GPU and no stolen memory: displays may stay dark",
        ),
    },
    // Volume Management Device.
    Quirk {
        vendor: INTEL,
        devices: &[0x201d..=0x201d, 0x467f..=0x467f, 0x4c3d..=0x4c3d, 0x9a0b..=0x9a0b],
        class: None,
        effect: Effect::Unhandled(
            "the guest does not learn the host's addresses of its BARs, so the disks behind it are not found",
        ),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(vendor: u16, device: u16, class: u8) -> Identity {
        Identity { vendor, device, class }
    }

    #[test]
    fn a_device_is_identified_by_vendor_device_and_class() {
        let header = [0x25, 0x14, 0x03, 0x58, 6, 4, 0x10, 0, 1, 0, 0, 2];
        assert_eq!(Identity::of(&header), Some(identity(0x1425, 0x5803, 2)));
        assert_eq!(Identity::of(&header[..11]), None);
    }

    #[test]
    fn pending_bits_move_for_the_virtual_functions_of_t5_and_kunlun_only() {
        let offset = |vendor, device| identity(vendor, device, 2).pba_offset();
        assert_eq!([0x5800, 0x5803, 0x58ff].map(|device| offset(0x1425, device)), [Some(0x1000); 3]);
        assert_eq!([0x57ff, 0x5900, 0x5400].map(|device| offset(0x1425, device)), [None; 3]);
        assert_eq!([0x3684, 0x3685, 0x3686].map(|device| offset(0x1d22, device)), [None, Some(0xb400), None]);
        assert_eq!(offset(0x8086, 0x5803), None);
    }

    #[test]
    fn a_device_that_may_not_work_has_a_warning_of_one_line() {
        let count = |vendor, device, class| identity(vendor, device, class).warnings().count();
        assert_eq!(count(0x10ec, 0x8168, 2), 1);
        assert_eq!(
            (count(0x10de, 0x2204, 3), count(0x10de, 0x1aef, 4)),
            (1, 0),
            "a GPU and its audio function"
        );
        assert_eq!((count(0x1002, 0x67b0, 3), count(0x1002, 0x73bf, 3)), (2, 1));
        assert_eq!((count(0x8086, 0x9a49, 3), count(0x8086, 0x1533, 2)), (1, 0));
        assert_eq!((count(0x8086, 0x9a0b, 1), count(0x1425, 0x5803, 2)), (1, 0));
        for quirk in QUIRKS {
            if let Effect::Unhandled(warning) = quirk.effect {
                assert!(!warning.contains('\n') && !warning.contains("  "), "{warning}");
            }
        }
    }

    #[test]
    fn the_manual_lists_every_quirk() {
        let manual = include_str!("../../../docs/vmm.md");
        for quirk in QUIRKS {
            let devices = match quirk.devices {
                devices if devices == ANY => "\\*".to_owned(),
                [one] if one.start() == one.end() => format!("{:04x}", one.start()),
                [first, ..] => format!("{:04x}", first.start()),
                [] => unreachable!("a quirk of no device"),
            };
            let row = format!("| {:04x}:{devices}", quirk.vendor);
            let effect = match quirk.effect {
                Effect::PbaOffset(offset) => format!("{offset:#x}"),
                Effect::Unhandled(_) => "warned".to_owned(),
            };
            let has_row = |line: &str| line.starts_with(&row) && line.contains(&effect);
            assert!(manual.lines().any(has_row), "{row} … {effect}");
        }
    }
}
