//! Configuration accesses of a driver, for tests: to the device after the host bridge.

use std::sync::Arc;

use vm_device::bus::MmioAddress;

use super::Root;

/// A driver of the device.
pub(crate) trait Driver {
    /// The bus.
    fn root(&self) -> &Arc<Root>;

    /// Reads N bytes of configuration space.
    fn config_read<const N: usize>(&self, offset: u64) -> u32 {
        let mut data = [0; N];
        self.root().ecam().mmio_read(MmioAddress(0), DEVICE + offset, &mut data);
        little_endian(&data) as u32
    }

    /// Writes configuration space.
    fn config_write(&self, offset: u64, data: &[u8]) {
        self.root().ecam().mmio_write(MmioAddress(0), DEVICE + offset, data);
    }

    /// The capabilities: offset, ID.
    fn capabilities(&self) -> Vec<(u64, u8)> {
        let mut list = Vec::new();
        let mut next = u64::from(self.config_read::<1>(0x34));
        while next != 0 {
            list.push((next, self.config_read::<1>(next) as u8));
            next = self.config_read::<1>(next + 1).into();
            assert!(list.len() < 16, "the list loops: {list:x?}");
        }
        list
    }

    /// The first capability of this ID.
    fn capability(&self, id: u8) -> Option<u64> {
        self.capabilities().into_iter().find(|(_, found)| *found == id).map(|(at, _)| at)
    }
}

/// Where the device is in ECAM: device 1, function 0.
const DEVICE: u64 = 8 << 12;

/// Up to 8 bytes as a number.
pub(crate) fn little_endian(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
