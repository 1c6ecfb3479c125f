//! The PCI Express capability of an emulated function: a root complex integrated endpoint, which has no link (PCIe r6
//! §7.5.3). A guest needs it to use extended configuration space.

use super::capability_list::CapabilityList;
use super::config::Register;

const ID: u8 = 0x10;
const BYTES: u8 = 0x3c;
/// Capability version 2, device/port type 9.
const INTEGRATED_ENDPOINT: u32 = 0x0092;
/// Device capabilities: payloads of 128 bytes, role-based error reporting, function-level reset.
const DEVICE_CAPABILITIES: u32 = 1 << 15 | 1 << 28;
const DEVICE_CONTROL: u16 = 0x08;
/// Device control: the error reporting enables. The functions report no errors.
const ERROR_REPORTING: u32 = 0b1111;
/// The byte of device control with Initiate Function Level Reset, and the bit, which reads 0.
const INITIATE_RESET: (u16, u8) = (0x09, 1 << 7);

/// The capability's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpressCapability {
    at: u16,
}

impl ExpressCapability {
    /// Adds the capability to a list.
    pub fn add(list: &mut CapabilityList) -> Self {
        let at = list.add(ID, BYTES);
        let register = |offset, width, reset, writable| Register {
            offset,
            width,
            reset,
            emulated: u32::MAX,
            writable,
            forwarded: 0,
        };
        list.define(
            at,
            &[
                register(0x02, 2, INTEGRATED_ENDPOINT, 0),
                register(0x04, 4, DEVICE_CAPABILITIES, 0),
                register(DEVICE_CONTROL, 2, 0, ERROR_REPORTING),
            ],
        );
        Self { at }
    }

    /// Whether a write initiates a function level reset.
    #[must_use]
    pub fn initiates_flr(self, offset: u16, data: &[u8]) -> bool {
        let (byte, bit) = INITIATE_RESET;
        let at = self.at.saturating_add(byte).checked_sub(offset);
        at.and_then(|at| data.get(usize::from(at))).is_some_and(|byte| byte & bit != 0)
    }
}
