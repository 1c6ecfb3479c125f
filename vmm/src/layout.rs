//! The guest's address map: physical addresses, I/O ports and GSIs.
//!
//! Owns the constants, and the placement of RAM and of the 64-bit PCI window. Nothing in this module is mutable.
//! Ranges are half open, `start..end`, in guest-physical addresses (`u64`) or I/O ports (`u16`), unless a name says
//! otherwise.
//!
//! ```text
//! 0                    RAM below the hole (boot structures in the first MiB, the kernel above it)
//! 0xC000_0000          32-bit PCI memory window
//! 0xE000_0000          ECAM of bus 0
//! 0xFEC0_0000          IOAPIC
//! 0xFEE0_0000          local APICs, and the MSI doorbell of devices
//! 0xFFFB_C000          pages that KVM needs for itself
//! 4 GiB                RAM above the hole
//! first multiple of 1 TiB above RAM (less on a CPU with few address bits): 64-bit PCI memory window
//! ```

use std::ops::Range;

/// One kibibyte.
pub const KIB: u64 = 1 << 10;
/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;

/// The boot CPU's initial GDT.
pub const BOOT_GDT: u64 = 0x500;
/// PVH's start info, with its lists of modules and of memory, one page.
pub const PVH_START_INFO: u64 = 0x6000;
/// Linux' boot parameters, the "zero page".
pub const BOOT_PARAMS: u64 = 0x7000;
/// The identity-mapped page tables of the 64-bit entry, six pages.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// The boot CPU's initial stack pointer. The stack grows down.
pub const BOOT_STACK: u64 = 0x8ff0;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Maximum size of the command line in bytes, including the final zero (Linux' `COMMAND_LINE_SIZE` on x86).
pub const COMMAND_LINE_SIZE: usize = 2048;
/// End of conventional memory. The kernel gets no RAM from here up to 1 MiB.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// ACPI tables, RSDP first, in the area that firmware uses for them.
pub const ACPI_TABLES: Range<u64> = 0xe_0000..0xf_0000;
/// The firmware area.
pub const FIRMWARE: Range<u64> = 0xf_0000..0x10_0000;
/// The real-mode reset vector, F000:FFF0.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Start of the RAM for the kernel and the initial RAM disk.
pub const HIGH_RAM: u64 = MIB;

/// The 32-bit PCI memory window, for 32-bit BARs and for 64-bit ones that do not fit above RAM. RAM below 4 GiB ends
/// here.
pub const PCI_MMIO32: Range<u64> = 0xc000_0000..0xe000_0000;
/// ECAM of segment 0, bus 0 (PCIe 7.2.2): 32 devices of 8 functions of 4 KiB.
pub const PCI_ECAM: Range<u64> = 0xe000_0000..0xe010_0000;
/// The PCI I/O window, inclusive: its end is the last port.
pub const PCI_PIO: std::ops::RangeInclusive<u16> = 0xc000..=0xffff;
/// The PCI configuration ports, `CONFIG_ADDRESS` and `CONFIG_DATA` (PCI 3.0, 3.2.2.3.2).
pub const PCI_CONFIG_PORTS: Range<u16> = 0xcf8..0xd00;

/// The IOAPIC's registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Bytes of the IOAPIC's register window.
pub const IOAPIC_SIZE: u64 = 4 * KIB;
/// The local APICs' registers.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// Pins of the IOAPIC, which are GSIs 0 to 23.
pub const IOAPIC_PINS: u32 = 24;
/// GSIs of the PCI functions' INTx lines. They are pins of the IOAPIC alone: the PIC has none of them.
pub const INTX_GSIS: Range<u32> = 16..IOAPIC_PINS;
/// A page for KVM's identity map, which VMX hosts without unrestricted guest need.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for KVM's task state segment, which the same hosts need.
pub const KVM_TSS: u64 = 0xfffb_d000;
/// Start of the RAM that does not fit below the hole.
pub const RAM_ABOVE_HOLE: u64 = 4 * GIB;

/// COM1's ports.
pub const COM1_PORTS: Range<u16> = 0x3f8..0x400;
/// COM1's GSI.
pub const COM1_GSI: u32 = 4;
/// The ports of the PICs and their edge/level registers, which KVM serves.
pub const PIC_PORTS: [Range<u16>; 3] = [0x20..0x22, 0xa0..0xa2, 0x4d0..0x4d2];
/// The keyboard controller's ports. Only the reset command works.
pub const I8042_PORTS: Range<u16> = 0x60..0x65;
/// The chipset's reset control register, a byte inside [`PCI_CONFIG_PORTS`].
pub const RESET_CONTROL_PORT: u16 = 0xcf9;
/// ACPI's sleep control, sleep status and reset registers, one byte each (ACPI 4.8.3.7, 4.8.3.6).
pub const ACPI_POWER_PORTS: Range<u16> = 0x600..0x603;
/// pvpanic's port, one byte.
pub const PVPANIC_PORT: u16 = 0x505;
/// Ports of the debug-exit device: an access of 4 bytes fits.
pub const DEBUG_EXIT_PORTS: u16 = 4;

/// Whether the machine has a device of its own at one of these ports.
#[must_use]
pub fn has_device(ports: &Range<u16>) -> bool {
    let pci = *PCI_PIO.start()..u16::MAX;
    let fixed =
        [COM1_PORTS, I8042_PORTS, ACPI_POWER_PORTS, PVPANIC_PORT..PVPANIC_PORT + 1, PCI_CONFIG_PORTS, pci];
    fixed.iter().chain(&PIC_PORTS).any(|taken| taken.start < ports.end && ports.start < taken.end)
}

/// Alignments of the 64-bit PCI window's start, as powers of two: 1 TiB, and 256 GiB to 4 GiB. 512 GiB is left out: with
/// 40 address bits, a start at 256 GiB leaves room for two BARs of 256 GiB and for small ones before them.
const PCI_MMIO64_ALIGNMENTS: [u32; 8] = [40, 38, 37, 36, 35, 34, 33, 32];
/// Maximum size of the 64-bit PCI window.
const PCI_MMIO64_LARGEST: u64 = 4 << 40;

/// Guest-physical ranges for `size` bytes of RAM: one, or two if the RAM exceeds the space below the hole.
#[must_use]
pub fn ram(size: u64) -> Vec<Range<u64>> {
    let below = size.min(PCI_MMIO32.start);
    let above = RAM_ABOVE_HOLE..RAM_ABOVE_HOLE.saturating_add(size.saturating_sub(below));
    [0..below, above].into_iter().filter(|range| !range.is_empty()).collect()
}

/// The 64-bit PCI memory window above the RAM that ends at `ram_end`, within `physical_bits` of physical address.
///
/// The window starts at the largest alignment with room above it, and takes all addresses from there, up to 4 TiB. A
/// large BAR is then aligned wherever it fits. The window is placed low, because IOMMUs may translate fewer address bits
/// than the CPU.
#[must_use]
pub fn pci_mmio64(ram_end: u64, physical_bits: u8) -> Option<Range<u64>> {
    let limit = 1u64.checked_shl(u32::from(physical_bits)).unwrap_or(u64::MAX);
    let floor = ram_end.max(RAM_ABOVE_HOLE);
    PCI_MMIO64_ALIGNMENTS.into_iter().find_map(|shift| {
        let alignment = 1u64 << shift;
        let start = floor.checked_next_multiple_of(alignment)?;
        let end = start.saturating_add(PCI_MMIO64_LARGEST).min(limit);
        (end.saturating_sub(start) >= alignment).then_some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_splits_at_the_hole() {
        assert_eq!(ram(512 * MIB).as_slice(), std::slice::from_ref(&(0..512 * MIB)));
        assert_eq!(ram(3 * GIB).as_slice(), std::slice::from_ref(&(0..3 * GIB)));
        assert_eq!(ram(3 * GIB + 1), vec![0..3 * GIB, 4 * GIB..4 * GIB + 1]);
        assert_eq!(ram(10 * GIB), vec![0..3 * GIB, 4 * GIB..11 * GIB]);
    }

    #[test]
    fn the_64_bit_window_is_above_ram_aligned_and_addressable() {
        const TIB: u64 = 1 << 40;
        assert_eq!(pci_mmio64(512 * MIB, 46), Some(TIB..5 * TIB));
        assert_eq!(pci_mmio64(300 * GIB, 46), Some(TIB..5 * TIB));
        assert_eq!(pci_mmio64(TIB + 1, 52), Some(2 * TIB..6 * TIB));
        assert_eq!(pci_mmio64(512 * MIB, 42), Some(TIB..4 * TIB));
        assert_eq!(pci_mmio64(512 * MIB, 41), Some(TIB..2 * TIB));
        assert_eq!(pci_mmio64(512 * MIB, 40), Some(256 * GIB..TIB));
        assert_eq!(pci_mmio64(900 * GIB, 40), Some(960 * GIB..TIB));
        assert_eq!(pci_mmio64(512 * MIB, 39), Some(256 * GIB..512 * GIB));
        assert_eq!(pci_mmio64(512 * MIB, 36), Some(32 * GIB..64 * GIB));
        assert_eq!(pci_mmio64(4 * GIB, 32), None);
        assert_eq!(pci_mmio64(TIB, 40), None, "RAM takes all addresses");
        assert_eq!(pci_mmio64(u64::MAX, 64), None);
    }

    /// Two accelerators, each with a BAR of 256 GiB and two smaller ones, as firmware assigns them.
    #[test]
    fn two_devices_with_a_bar_of_256_gib_have_room_from_40_address_bits_on() {
        use crate::pci::{Bar, Bars, ConfigSpace, Root, Windows};
        let assigned = |ram: u64, physical_bits: u8| {
            let mmio64 = pci_mmio64(ram, physical_bits).unwrap();
            let root = Root::new(Windows { mmio32: PCI_MMIO32, mmio64: mmio64.clone(), pio: PCI_PIO });
            let bars =
                [Bar::new(4, 0x100_0000), None, Bar::new(0xc, 256 * GIB), None, Bar::new(4, 0x4000), None];
            let bars = Bars::new(bars);
            let mut starts = Vec::new();
            for _ in 0..2 {
                let mut space = ConfigSpace::emulated();
                bars.define(&mut space);
                root.assign(&bars, &mut space).ok()?;
                let start = u64::from(space.value(0x18, 4) & !0xf) | u64::from(space.value(0x1c, 4)) << 32;
                assert!(mmio64.contains(&start) && start + 256 * GIB <= mmio64.end, "{start:#x}");
                assert!(start.is_multiple_of(256 * GIB), "{start:#x}");
                starts.push(start / GIB);
            }
            Some(starts)
        };
        assert_eq!(assigned(64 * GIB, 46), Some(vec![1024, 1536]));
        assert_eq!(assigned(512 * MIB, 40), Some(vec![256, 768]));
        assert_eq!(assigned(512 * MIB, 39), None, "39 bits address one");
    }

    #[test]
    fn ports_of_the_machine_are_taken_and_the_ones_beside_them_are_free() {
        for free in [0x10..0x20u16, 0xf4..0xf8, 0x501..0x505, 0x506..0x50a, 0x3f4..0x3f8, 0xbffc..0xc000] {
            assert!(!has_device(&free), "{free:x?}");
        }
        for taken in [
            0x1f..0x23u16,
            0x61..0x65,
            0x502..0x506,
            0x3f5..0x3f9,
            0xcf9..0xcfd,
            0xbffd..0xc001,
            0xfff8..0xfffc,
        ] {
            assert!(has_device(&taken), "{taken:x?}");
        }
    }

    #[test]
    fn regions_of_the_hole_do_not_overlap() {
        let fixed = [
            PCI_MMIO32,
            PCI_ECAM,
            IOAPIC..IOAPIC + 4 * KIB,
            LOCAL_APIC..LOCAL_APIC + MIB,
            KVM_IDENTITY_MAP..KVM_TSS,
            KVM_TSS..KVM_TSS + 12 * KIB,
            RAM_ABOVE_HOLE..u64::MAX,
        ];
        for pair in fixed.windows(2) {
            assert!(pair[0].start < pair[0].end && pair[0].end <= pair[1].start, "{pair:x?}");
        }
    }
}
