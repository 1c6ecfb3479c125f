//! The host bridge at 00:00.0: an identity and a class code, which operating systems expect, and no BARs.

use super::config::{ConfigSpace, Register};
use super::function::{BarAddresses, DECODER_COUNT, Decoding, Function};

/// Type 0 header (PCIe r6 §7.5.1). The IDs are Red Hat's for a generic PCIe host bridge.
const HEADER: &[Register] = &[
    Register { offset: 0x00, width: 4, reset: 0x0008_1b36, emulated: u32::MAX, writable: 0, forwarded: 0 },
    // Class 06 (bridge), subclass 00 (host bridge).
    Register { offset: 0x08, width: 4, reset: 0x0600_0000, emulated: u32::MAX, writable: 0, forwarded: 0 },
    // Subsystem: Red Hat's virtual devices.
    Register { offset: 0x2c, width: 4, reset: 0x1100_1af4, emulated: u32::MAX, writable: 0, forwarded: 0 },
];

/// The bridge. A guest cannot change its state.
#[derive(Debug)]
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    fn default() -> Self {
        let mut space = ConfigSpace::emulated();
        space.define(0, HEADER);
        Self(space)
    }
}

impl Function for HostBridge {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.0.merge(offset, data);
    }

    fn config_write(&self, _offset: u16, _data: &[u8]) {}

    fn bar_read(&self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn decoding(&self) -> Decoding {
        [None; DECODER_COUNT]
    }

    fn update_bars(&self, _addresses: &BarAddresses) {}

    fn release(&self) {}

    fn report(&self) -> Option<serde_json::Value> {
        None
    }
}
