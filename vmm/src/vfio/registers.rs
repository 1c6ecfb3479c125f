//! Register tables of a passed-through function.
//!
//! Offsets count from the start of the header or capability. A bit in no column is read from the device, and a write
//! to it is dropped. VFIO protects the host from the guest; these tables give the guest a consistent function.

use crate::pci::Register;
pub use crate::pci::{COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE};

/// The base of a row: no bit is emulated.
const NONE: Register = Register { offset: 0, width: 1, reset: 0, emulated: 0, writable: 0, forwarded: 0 };
const ALL: u32 = u32::MAX;

/// Type 0 header (PCIe r6 §7.5.1.1, §7.5.1.2). BARs, decode enables and pointers come on top.
pub const HEADER: &[Register] = &[
    // Vendor ID, device ID.
    Register { offset: 0x00, width: 4, ..NONE },
    // Command: emulated. The host's register is derived from it. Parity and SERR reporting, bus master, INTx disable.
    Register { offset: 0x04, width: 2, emulated: ALL, writable: COMMAND_WRITABLE, ..NONE },
    STATUS,
    // Revision, class.
    Register { offset: 0x08, width: 4, ..NONE },
    // Cache line size, latency timer: without effect on PCIe.
    Register { offset: 0x0c, width: 1, emulated: ALL, writable: ALL, ..NONE },
    Register { offset: 0x0d, width: 1, emulated: ALL, ..NONE },
    // Header type 0. The bus sets the Multi-Function bit. No BIST.
    Register { offset: 0x0e, width: 2, emulated: ALL, ..NONE },
    // Base address registers.
    Register { offset: 0x10, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x14, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x18, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x1c, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x20, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x24, width: 4, emulated: ALL, ..NONE },
    // CardBus CIS pointer: none. Subsystem IDs. The BARs add the expansion ROM.
    Register { offset: 0x28, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x2c, width: 4, ..NONE },
    Register { offset: 0x30, width: 4, emulated: ALL, ..NONE },
    // Capabilities pointer and reserved bytes.
    Register { offset: 0x34, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x38, width: 4, emulated: ALL, ..NONE },
    // Interrupt Line is a scratch register. Interrupt Pin is 0 unless the function has INTx. Min_Gnt, Max_Lat.
    Register { offset: INTERRUPT_LINE, width: 1, emulated: ALL, writable: ALL, ..NONE },
    Register { offset: INTERRUPT_PIN, width: 1, emulated: ALL, ..NONE },
    Register { offset: 0x3e, width: 2, emulated: ALL, ..NONE },
];

/// Bus master, parity error response, SERR# enable, interrupt disable. The BARs add the decode enables.
pub const COMMAND_WRITABLE: u32 = COMMAND_BUS_MASTER | (1 << 6) | (1 << 8) | COMMAND_INTX_DISABLE;

/// Interrupt Line and Interrupt Pin.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// See [`INTERRUPT_LINE`].
pub const INTERRUPT_PIN: u16 = 0x3d;

/// Status: Interrupt Status.
pub const STATUS_INTERRUPT: u32 = 1 << 3;
/// Status: no INTx pending, unless the function has INTx. The capability list sets bit 4. Writing 1 clears errors.
pub const STATUS: Register =
    Register { offset: 0x06, width: 2, emulated: STATUS_INTERRUPT | (1 << 4), forwarded: 0xf900, ..NONE };

/// Power management capability (PCI PM 1.2 §3.2): D0 and D3hot, no PME. The state is emulated. The host's device
/// stays in D0, and a transition that resets a function resets the device.
pub const POWER_MANAGEMENT: &[Register] = &[
    // PMC: no PME support, no D1, no D2, no auxiliary current.
    Register { offset: 2, width: 2, emulated: 0xffc0, ..NONE },
    // PMCSR: PowerState; No_Soft_Reset is as the device has it.
    Register {
        offset: PMCSR,
        width: 2,
        emulated: 0xffff & !PMCSR_NO_SOFT_RESET,
        writable: PMCSR_STATE,
        ..NONE
    },
    Register { offset: 6, width: 2, emulated: ALL, ..NONE },
];
/// Offset of the power management control/status register.
pub const PMCSR: u16 = 4;
/// PMCSR: the power state, D0 to D3hot.
pub const PMCSR_STATE: u32 = 0b11;
/// PMCSR: D3hot to D0 does not reset the function.
pub const PMCSR_NO_SOFT_RESET: u32 = 1 << 3;

/// PCI Express capability (PCIe r6 §7.5.3). On the root bus, a function without a link is a root complex integrated
/// endpoint, which has no link registers (§7.5.3, table 7-20).
pub const PCI_EXPRESS: &[Register] = &[
    Register { offset: 0x02, width: 2, emulated: 0x00f0, reset: 0x0090, ..NONE },
    // Device capabilities.
    Register { offset: DEVICE_CAPABILITIES, width: 4, ..NONE },
    // Device control: all bits but Initiate Function Level Reset, which is emulated.
    Register { offset: DEVICE_CONTROL, width: 2, emulated: 0x8000, forwarded: 0x7fff, ..NONE },
    // Device status: errors are cleared by writing 1.
    Register { offset: 0x0a, width: 2, forwarded: 0x000f, ..NONE },
    // Link, slot and root registers.
    Register { offset: 0x0c, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x10, width: 4, emulated: ALL, ..NONE },
];
/// The same for version 0, which virtual functions of the Intel 82599 report: the guest sees version 1, as the registers
/// are.
pub const PCI_EXPRESS_0: &[Register] =
    &[Register { offset: 0x02, width: 2, emulated: 0x00ff, reset: 0x0091, ..NONE }];
/// Registers that version 2 of the capability adds.
pub const PCI_EXPRESS_2: &[Register] = &[
    Register { offset: 0x14, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x18, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x1c, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x20, width: 4, emulated: ALL, ..NONE },
    // Device capabilities 2: no LTR, OBFF or TPH, which nothing on this bus uses.
    Register { offset: 0x24, width: 4, emulated: (1 << 11) | (0b11 << 12) | (0b11 << 18), ..NONE },
    // Device control 2: completion timeout, atomic operations, ID-based ordering. The rest reads 0, because the guest
    // has no capability for it.
    Register { offset: DEVICE_CONTROL_2, width: 2, emulated: !0x035f, forwarded: 0x035f, ..NONE },
    Register { offset: 0x2a, width: 2, emulated: ALL, ..NONE },
    // Link and slot registers of version 2.
    Register { offset: 0x2c, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x30, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x34, width: 4, emulated: ALL, ..NONE },
    Register { offset: 0x38, width: 4, emulated: ALL, ..NONE },
];
/// Offset of the device capabilities.
pub const DEVICE_CAPABILITIES: u16 = 0x04;
/// Device capabilities: Function Level Reset Capability.
pub const DEVICE_CAPABILITIES_FLR: u32 = 1 << 28;
/// Offset of the device control register.
pub const DEVICE_CONTROL: u16 = 0x08;
/// Offset of the device control 2 register.
pub const DEVICE_CONTROL_2: u16 = 0x28;
/// The byte of device control with Initiate Function Level Reset, and the bit.
pub const DEVICE_CONTROL_FLR: (u16, u8) = (0x09, 1 << 7);

/// Advanced features capability (PCI AF ECN). Initiate FLR is emulated.
pub const ADVANCED_FEATURES: &[Register] = &[
    Register { offset: 3, width: 1, ..NONE },
    Register { offset: 4, width: 1, emulated: ALL, ..NONE },
    Register { offset: 5, width: 1, ..NONE },
];
/// Offset of the advanced features' capabilities, and the FLR capability bit.
pub const ADVANCED_FEATURES_CAPABILITIES: (u16, u8) = (3, 1 << 1);
/// The byte of the advanced features' control with Initiate FLR, and the bit.
pub const ADVANCED_FEATURES_FLR: (u16, u8) = (4, 1 << 0);
