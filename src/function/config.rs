//! A function's capability in configuration space.

use super::InterruptFunction;
use crate::access::lanes;
use crate::domain::Domain;
use crate::msi::{Msi, MsiLayout};
use crate::registers::PciCapability;

impl<C: PciCapability, D: Domain> InterruptFunction<C, D> {
    /// Reads the capability. `offset` is in bytes from its ID. The next pointer reads 0, because it belongs
    /// to the embedder.
    pub fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.registers.read_config(offset, data);
        self.sync_shown_by_config();
        let Some(register) = self.registers.pending_register() else { return };
        let dword = u64::from(register / 4);
        for lane in lanes(offset.into(), data.len()).filter(|lane| lane.dword == dword) {
            lane.read(self.domain.pending(0) as u32, data);
        }
    }

    /// Writes the capability. `offset` is in bytes from its ID.
    ///
    /// Interrupts meanwhile: none is lost. When this returns, no interrupt is delivered for a vector that is
    /// masked or off, nor on a vector's old message.
    pub fn write_config(&self, offset: u16, data: &[u8]) {
        self.sync(self.registers.write_config(offset, data));
        self.sync_shown_by_config();
    }

    /// A read or write of Message Control or of MSI's mask bits may show any vector as masked or off.
    fn sync_shown_by_config(&self) {
        if self.registers.shows_silence() {
            self.sync_shown(0..self.registers.capacity());
        }
    }
}

impl<D: Domain> InterruptFunction<Msi, D> {
    /// The capability's layout.
    pub fn layout(&self) -> &MsiLayout {
        self.registers.layout()
    }
}
