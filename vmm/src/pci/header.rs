//! The type 0 header of an emulated function (PCIe r6 §7.5.1): IDs, BARs, and the standard registers. There is no
//! INTx: Interrupt Pin reads 0.

use super::bar::{Bars, COMMAND, COMMAND_MEMORY};
use super::config::{ConfigSpace, Register};

/// Command: Bus Master Enable. The function may issue requests, including interrupts (PCIe r6 §7.5.1.1.3).
pub const COMMAND_BUS_MASTER: u32 = 1 << 2;
/// Command: Interrupt Disable. The functions have no INTx, so the bit has no effect.
pub const COMMAND_INTX_DISABLE: u32 = 1 << 10;
/// Status: the function has a capability list.
const STATUS_CAPABILITIES: u32 = 1 << 4;

/// Red Hat's vendor ID for virtual devices, and QEMU's subsystem ID.
const VENDOR: u32 = 0x1af4;
const SUBSYSTEM: u32 = 0x1100;

const NONE: Register =
    Register { offset: 0, width: 4, reset: 0, emulated: u32::MAX, writable: 0, forwarded: 0 };

/// The fields that differ between emulated functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The device ID.
    pub device: u16,
    /// The class code, 24 bits: class, subclass, programming interface.
    pub class: u32,
    /// The revision.
    pub revision: u8,
}

impl Header {
    /// Configuration space with this header at power-on. The BARs have no address and the capability list is empty.
    #[must_use]
    pub fn space(self, bars: &Bars) -> ConfigSpace {
        let mut space = ConfigSpace::emulated();
        let writable = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
        space.define(
            0,
            &[
                Register { reset: u32::from(self.device) << 16 | VENDOR, ..NONE },
                Register { offset: COMMAND, width: 2, writable, ..NONE },
                Register { offset: 0x06, width: 2, reset: STATUS_CAPABILITIES, ..NONE },
                Register { offset: 0x08, reset: self.class << 8 | u32::from(self.revision), ..NONE },
                // Cache line size and interrupt line are scratch registers.
                Register { offset: 0x0c, width: 1, writable: 0xff, ..NONE },
                Register { offset: 0x2c, reset: SUBSYSTEM << 16 | VENDOR, ..NONE },
                Register { offset: 0x3c, width: 1, writable: 0xff, ..NONE },
            ],
        );
        bars.define(&mut space);
        space
    }
}
