//! QEMU's `ivshmem-doorbell` (QEMU, `docs/specs/ivshmem-spec.rst`): a write to its doorbell signals a vector of any device
//! on its server, and the server gives a device its own vectors too. So it rings itself.

use vm_msi::pool::HostVector;

use super::doorbell::{Doorbell, DoorbellError};
use crate::vfio::region::Region;

/// The BAR with the registers.
const BAR: usize = 0;
/// The device's own number on its server; read-only, and negative while it has none.
const POSITION: u64 = 8;
/// Bits 31:16: a device's number. Bits 15:0: the vector that it shall signal.
const DOORBELL: u64 = 12;

/// The device, by its registers.
#[derive(Debug)]
pub struct Ivshmem {
    registers: Region,
    position: u16,
}

impl Ivshmem {
    /// Vendor ID, device ID.
    pub const ID: (u16, u16) = (0x1af4, 0x1110);

    /// The device behind BAR 0.
    ///
    /// # Errors
    /// It has none, or no number yet.
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
