//! The MADT: the interrupt controllers.

use acpi_tables::Aml;
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::layout;

/// Bytes of the fixed part: table header, local APIC address, flags.
const FIXED: u32 = 44;
const LOCAL_APIC_ADDRESS: usize = 36;
const REVISION: u8 = 5;
/// Local APIC NMI structure (ACPI 6.5 §5.2.12.7): LINT1 of every processor, with the bus's polarity and trigger mode.
const NMI_AT_LINT1: [u8; 6] = [4, 6, 0xff, 0, 0, 1];
/// Local x2APIC NMI structure (§5.2.12.13): the same for every processor with an x2APIC structure.
const X2APIC_NMI_AT_LINT1: [u8; 12] = [0xa, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0];
/// Processors with this APIC ID and those above have an x2APIC structure (§5.2.12.12).
const FIRST_X2APIC_ID: u16 = 255;

pub(super) fn table(cpus: u16) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", FIXED, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    // Both are below 4 GiB by the layout.
    let address = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    madt.write_u32(LOCAL_APIC_ADDRESS, address(layout::LOCAL_APIC));
    let mut structures = Vec::new();
    for cpu in 0..cpus {
        match u8::try_from(cpu) {
            Ok(id) if cpu < FIRST_X2APIC_ID => {
                ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut structures);
            }
            _ => structures.extend(local_x2apic(cpu.into())),
        }
    }
    IoApic::new(0, address(layout::IOAPIC), 0).to_aml_bytes(&mut structures);
    structures.extend(NMI_AT_LINT1);
    if cpus > FIRST_X2APIC_ID {
        structures.extend(X2APIC_NMI_AT_LINT1);
    }
    madt.append_slice(&structures);
    madt
}

/// Processor Local x2APIC structure (ACPI 6.5 §5.2.12.12) of an enabled processor, whose UID is its APIC ID.
fn local_x2apic(id: u32) -> impl Iterator<Item = u8> {
    const ENABLED: u32 = 1;
    [9, 16, 0, 0].into_iter().chain([id, ENABLED, id].into_iter().flat_map(u32::to_le_bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The APIC IDs of the processors, by the structures of this type.
    fn ids(cpus: u16, kind: u8) -> BTreeSet<u32> {
        let mut bytes = Vec::new();
        table(cpus).to_aml_bytes(&mut bytes);
        let mut rest = &bytes[FIXED as usize..];
        let mut ids = BTreeSet::new();
        while let [found, length, ..] = *rest {
            let (structure, after) = rest.split_at(length.into());
            if found == kind {
                let word = |at: usize| u32::from_le_bytes(structure[at..at + 4].try_into().unwrap());
                let (id, flags, uid) = match kind {
                    0 => (structure[3].into(), word(4), structure[2].into()),
                    _ => (word(4), word(8), word(12)),
                };
                assert_eq!((flags, uid), (1, id));
                assert!(ids.insert(id));
            }
            rest = after;
        }
        ids
    }

    #[test]
    fn every_processor_has_one_structure_and_apic_ids_from_255_on_have_32_bits() {
        for cpus in [1, 2, 254, 255, 256, 1024u16] {
            assert_eq!(ids(cpus, 0), (0..u32::from(cpus.min(255))).collect());
            assert_eq!(ids(cpus, 9), (255..u32::from(cpus.max(255))).collect());
        }
    }
}
