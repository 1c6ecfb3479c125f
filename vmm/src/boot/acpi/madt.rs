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
/// Local APIC NMI structure (ACPI 5.2.12.7): LINT1 of every processor, with the bus's polarity and trigger mode.
const NMI_AT_LINT1: [u8; 6] = [4, 6, 0xff, 0, 0, 1];

pub(super) fn table(cpus: u8) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", FIXED, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    // Both are below 4 GiB by the layout.
    let address = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    madt.write_u32(LOCAL_APIC_ADDRESS, address(layout::LOCAL_APIC));
    let mut structures = Vec::new();
    for cpu in 0..cpus {
        ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled).to_aml_bytes(&mut structures);
    }
    IoApic::new(0, address(layout::IOAPIC), 0).to_aml_bytes(&mut structures);
    structures.extend(NMI_AT_LINT1);
    madt.append_slice(&structures);
    madt
}
