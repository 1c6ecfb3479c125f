//! The FADT: fixed hardware, of which there is hardly any, and the power-off and reset registers.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::devices::power::{RESET_REGISTER, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS};

/// IA-PC boot architecture flags (ACPI 5.2.9.3): no VGA, no PCIe ASPM, no CMOS clock. The legacy-device and 8042 bits
/// are clear: the machine has neither. MSI is supported (bit 3 is clear).
const BOOT_ARCH: u16 = NO_VGA | NO_ASPM | NO_CMOS_RTC;
const NO_VGA: u16 = 1 << 2;
const NO_ASPM: u16 = 1 << 4;
const NO_CMOS_RTC: u16 = 1 << 5;

pub(super) fn table(dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        // A set button flag means that the fixed hardware lacks the button.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = byte_port(RESET_REGISTER);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = byte_port(SLEEP_CONTROL);
    fadt.sleep_status_reg = byte_port(SLEEP_STATUS);
    fadt.finalize()
}

fn byte_port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}
