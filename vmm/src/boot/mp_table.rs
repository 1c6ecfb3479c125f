//! The MP table (Intel MultiProcessor Specification 1.4, 4): CPUs, IOAPIC and interrupt lines for a guest that does without ACPI.
//!
//! Linux reads it with `acpi=off`, and for the IOAPIC alone with `pci=noacpi`. It says what the ACPI tables say: the same local APIC IDs,
//! COM1's IRQ, and the GSI of each pin of each PCI device. It cannot name CPUs from APIC ID 255 on. The table is built once, before the
//! guest starts.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::error::{Context, Result};
use crate::layout;
use crate::pci::{DeviceFunction, InterruptPin};

/// The floating pointer, which the guest looks for at 16-byte boundaries of the firmware area. The table follows.
const POINTER: u64 = layout::FIRMWARE.start;
const TABLE: u64 = POINTER + 16;
/// Version 1.4.
const REVISION: u8 = 4;
const OEM: &[u8; 8] = b"VMMSI   ";
const PRODUCT: &[u8; 12] = b"VMM         ";

/// Entry types.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Buses.
const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
/// Device numbers of the PCI bus.
const DEVICES: u8 = 32;

/// The versions of KVM's local APICs, and of both IOAPICs.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const IOAPIC_ID: u8 = 0;

/// Flags of a processor.
const ENABLED: u8 = 1 << 0;
const BOOT_PROCESSOR: u8 = 1 << 1;

/// Kinds of interrupts.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
/// All local APICs.
const ALL_APICS: u8 = 0xff;

/// Writes the floating pointer and the table for this many CPUs.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host) if guest memory cannot be written.
pub fn write(memory: &GuestMemoryMmap, cpus: u16) -> Result<()> {
    let context = "writing the MP table";
    memory.write_slice(&pointer(), GuestAddress(POINTER)).context(context)?;
    memory.write_slice(&table(cpus), GuestAddress(TABLE)).context(context)
}

fn pointer() -> Vec<u8> {
    let mut pointer = b"_MP_".to_vec();
    pointer.extend(low(TABLE).to_le_bytes());
    // One paragraph of 16 bytes, the version, the checksum. No default configuration, no IMCR.
    pointer.extend([1, REVISION, 0, 0, 0, 0, 0, 0]);
    with_checksum(pointer, 10)
}

fn table(cpus: u16) -> Vec<u8> {
    let entries = entries(cpus);
    let count = u16::try_from(entries.len()).unwrap_or(u16::MAX);
    let entries = entries.concat();
    let mut table = b"PCMP".to_vec();
    let length = HEADER.saturating_add(entries.len());
    table.extend(u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
    table.extend([REVISION, 0]);
    table.extend(OEM);
    table.extend(PRODUCT);
    // No OEM table.
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend(low(layout::LOCAL_APIC).to_le_bytes());
    // No extended table.
    table.extend([0; 4]);
    table.extend(entries);
    with_checksum(table, 7)
}

/// Bytes of the table's header.
const HEADER: usize = 44;

fn entries(cpus: u16) -> Vec<Vec<u8>> {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for cpu in 0..u8::try_from(cpus).unwrap_or(ALL_APICS) {
        let boot = if cpu == 0 { BOOT_PROCESSOR } else { 0 };
        let mut entry = vec![PROCESSOR, cpu, LOCAL_APIC_VERSION, ENABLED | boot];
        // The guest asks CPUID for signature and features.
        entry.extend([0; 16]);
        entries.push(entry);
    }
    for (bus, name) in [(PCI_BUS, b"PCI   "), (ISA_BUS, b"ISA   ")] {
        entries.push([&[BUS, bus][..], name].concat());
    }
    let address = low(layout::IOAPIC).to_le_bytes();
    entries.push([&[IOAPIC, IOAPIC_ID, IOAPIC_VERSION, ENABLED][..], &address].concat());
    entries.push(io_interrupt(ISA_BUS, layout::COM1_GSI as u8, layout::COM1_GSI));
    for device in 1..DEVICES {
        for pin in InterruptPin::ALL {
            let gsi = pin.gsi(DeviceFunction::from_bits(device << 3));
            entries.push(io_interrupt(PCI_BUS, device << 2 | pin.index(), gsi));
        }
    }
    // LINT0 and LINT1.
    entries.push(vec![LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.push(vec![LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_APICS, 1]);
    entries
}

/// An input of the IOAPIC with the polarity and trigger mode of its bus.
fn io_interrupt(bus: u8, source: u8, pin: u32) -> Vec<u8> {
    vec![IO_INTERRUPT, INT, 0, 0, bus, source, IOAPIC_ID, u8::try_from(pin).unwrap_or(u8::MAX)]
}

/// Sets the byte at `checksum` so that all bytes add up to 0.
fn with_checksum(mut bytes: Vec<u8>, checksum: usize) -> Vec<u8> {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(checksum) {
        *byte = sum.wrapping_neg();
    }
    bytes
}

/// An address below 4 GiB by the layout.
fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Reads the table as a guest does, from the pointer on.
    fn parsed(cpus: u16) -> Vec<Vec<u8>> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory, cpus).unwrap();
        let mut pointer = [0; 16];
        memory.read_slice(&mut pointer, GuestAddress(0xf_0000)).unwrap();
        assert_eq!((&pointer[..4], sum(&pointer), pointer[8]), (&b"_MP_"[..], 0, 1));
        let at = u32::from_le_bytes(pointer[4..8].try_into().unwrap());
        let length: u16 = memory.read_obj(GuestAddress(u64::from(at) + 4)).unwrap();
        let mut table = vec![0; length.into()];
        memory.read_slice(&mut table, GuestAddress(at.into())).unwrap();
        assert_eq!((&table[..4], sum(&table)), (&b"PCMP"[..], 0));
        assert_eq!(table[36..40], [0, 0, 0xe0, 0xfe]);
        let (mut rest, mut entries) = (&table[HEADER..], Vec::new());
        while let Some(kind) = rest.first() {
            let (entry, after) = rest.split_at(if *kind == PROCESSOR { 20 } else { 8 });
            entries.push(entry.to_vec());
            rest = after;
        }
        assert_eq!(usize::from(u16::from_le_bytes([table[34], table[35]])), entries.len());
        entries
    }

    #[test]
    fn every_cpu_is_listed_once_and_the_first_one_boots() {
        for cpus in [1, 64, 255, 256] {
            let entries = parsed(cpus);
            let listed: Vec<_> = entries.iter().filter(|entry| entry[0] == PROCESSOR).collect();
            assert_eq!(listed.len(), usize::from(cpus.min(255)));
            assert_eq!(listed[0][1..4], [0, 0x14, 3]);
            assert!((1..).zip(&listed[1..]).all(|(id, entry)| entry[1] == id && entry[3] == 1));
        }
    }

    #[test]
    fn com1_and_every_pci_pin_have_their_gsi() {
        let entries = parsed(2);
        let pins: Vec<_> = entries.iter().filter(|entry| entry[0] == IO_INTERRUPT).collect();
        assert_eq!(pins.len(), 1 + 31 * 4);
        assert_eq!(pins[0][4..], [ISA_BUS, 4, 0, 4]);
        assert_eq!(pins[1][4..], [PCI_BUS, 1 << 2, 0, 17]);
        assert_eq!(pins[2][4..], [PCI_BUS, 1 << 2 | 1, 0, 18]);
        assert_eq!(pins[1 + 8 * 4][4..], [PCI_BUS, 9 << 2, 0, 17]);
    }
}
