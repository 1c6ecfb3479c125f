//! The ACPI tables: a hardware-reduced machine with local APICs, an IOAPIC, one PCIe host bridge and COM1.
//!
//! Hardware-reduced (ACPI 4.1) means no PIC, PIT, SCI or power-management timer. Linux does not probe for them. It
//! powers off and resets through the three registers of [`crate::devices::power`]. The tables are built once, before
//! the guest starts.

mod dsdt;
mod fadt;
mod madt;

use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::error::{Context, Error, Result};
use crate::layout;

/// The OEM ID.
const OEM: [u8; 6] = *b"VMMSI ";
/// The OEM table ID.
const OEM_TABLE: [u8; 8] = *b"VMMSIVMM";
/// The OEM revision.
const OEM_REVISION: u32 = 1;
/// Alignment of a table, in bytes.
const ALIGNMENT: u64 = 16;

/// The parts of the machine that the tables describe.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Number of CPUs. Their APIC IDs are 0 and up.
    pub cpus: u16,
    /// The 64-bit PCI window, if the guest's physical address space has room for one.
    pub pci_mmio64: Option<Range<u64>>,
}

/// Writes the tables and returns the address of the RSDP.
///
/// # Errors
/// [`Error::Host`] if the tables do not fit or guest memory cannot be written.
pub fn write(memory: &GuestMemoryMmap, machine: &Machine) -> Result<GuestAddress> {
    let rsdp = layout::ACPI_TABLES.start;
    let mut area = Area { memory, next: rsdp.saturating_add(Rsdp::len() as u64) };
    let dsdt = area.place(&dsdt::table(machine))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::PCI_ECAM.start, 0, 0, 0);
    for table in [&fadt::table(dsdt) as &dyn Aml, &madt::table(machine.cpus), &mcfg] {
        xsdt.add_entry(area.place(table)?);
    }
    let root = Rsdp::new(OEM, area.place(&xsdt)?);
    area.write(rsdp, &root)?;
    Ok(GuestAddress(rsdp))
}

/// The guest memory for the tables, filled from its start.
struct Area<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Area<'_> {
    /// Appends a table and returns its address.
    fn place(&mut self, table: &dyn Aml) -> Result<u64> {
        let at = self.next.next_multiple_of(ALIGNMENT);
        self.next = self.write(at, table)?;
        Ok(at)
    }

    /// Writes a table and returns the address after it.
    fn write(&self, at: u64, table: &dyn Aml) -> Result<u64> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let end = at.saturating_add(bytes.len() as u64);
        if end > layout::ACPI_TABLES.end {
            return Err(Error::host("writing the ACPI tables", "they do not fit their area"));
        }
        self.memory.write_slice(&bytes, GuestAddress(at)).context("writing the ACPI tables")?;
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(memory: &GuestMemoryMmap, at: u64) -> Vec<u8> {
        let length: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        let mut bytes = vec![0; length as usize];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Walks the tables from the RSDP, as a guest does.
    #[test]
    fn a_guest_finds_every_table_with_a_right_checksum() {
        for cpus in [1, 64] {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
            let machine = Machine { cpus, pci_mmio64: Some(64 << 30..128 << 30) };
            let rsdp = write(&memory, &machine).unwrap();
            let mut root = [0; 36];
            memory.read_slice(&mut root, rsdp).unwrap();
            assert_eq!((&root[..8], sum(&root[..20]), sum(&root)), (&b"RSD PTR "[..], 0, 0));
            let xsdt = table(&memory, u64::from_le_bytes(root[24..32].try_into().unwrap()));
            assert_eq!((&xsdt[..4], sum(&xsdt)), (&b"XSDT"[..], 0));
            let mut found = Vec::new();
            for entry in xsdt[36..].chunks_exact(8) {
                let bytes = table(&memory, u64::from_le_bytes(entry.try_into().unwrap()));
                assert_eq!(sum(&bytes), 0);
                found.push(String::from_utf8(bytes[..4].to_vec()).unwrap());
                if found.last().is_some_and(|name| name == "FACP") {
                    let dsdt = table(&memory, u64::from_le_bytes(bytes[140..148].try_into().unwrap()));
                    assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
                }
            }
            assert_eq!(found, ["FACP", "APIC", "MCFG"]);
        }
    }
}
