//! QEMU's `ivshmem-doorbell` (QEMU, `docs/specs/ivshmem-spec.rst`). A write to the doorbell signals a vector of any
//! device on the same server. A device may name itself, so it rings its own vectors.

use vm_msi::pool::HostVector;

use super::doorbell::{Doorbell, DoorbellError};
use crate::vfio::region::Region;

/// The BAR with the registers.
const BAR: usize = 0;
/// The device's ID on its server: read-only, and negative until the server has assigned one.
const POSITION: u64 = 8;
/// Bits 31:16: the ID of the target. Bits 15:0: the vector to signal.
const DOORBELL: u64 = 12;

/// The device.
#[derive(Debug)]
pub struct Ivshmem {
    registers: Region,
    position: u16,
}

impl Ivshmem {
    /// Vendor ID, device ID.
    pub const ID: (u16, u16) = (0x1af4, 0x1110);

    /// Opens the device behind BAR 0.
    ///
    /// # Errors
    /// The BAR is missing, or the device has no ID.
    pub fn new(registers: Option<Region>) -> Result<Self, DoorbellError> {
        let registers = registers.ok_or(DoorbellError::NoBar { bar: BAR })?;
        let mut position = [0; 4];
        registers.read(POSITION, &mut position);
        let position = u16::try_from(u32::from_le_bytes(position));
        let position = position.map_err(|_| DoorbellError::NotConnected)?;
        Ok(Self { registers, position })
    }
}

impl Doorbell for Ivshmem {
    fn name(&self) -> &'static str {
        "ivshmem-doorbell"
    }

    fn ring(&self, HostVector(vector): HostVector) {
        let ring = u32::from(self.position) << 16 | vector & 0xffff;
        self.registers.write(DOORBELL, &ring.to_le_bytes());
    }
}
