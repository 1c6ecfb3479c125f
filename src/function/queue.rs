//! A function's IMS slots in guest memory: the driver's commands to set and clear the address of a slot, and
//! its doorbell. The device model chooses a register for each command.

use vm_memory::{GuestAddress, GuestAddressSpace};

use super::InterruptFunction;
use super::ims::with_pending;
use crate::delivery::Vector;
use crate::domain::{DeviceDomain, Domain, SoftwareDomain};
use crate::ims::{QueueLayout, QueueStore, SlotRefusal};

/// The IMS of one PCI function: slots in guest memory.
pub type QueueFunction = InterruptFunction<QueueStore, DeviceDomain>;
/// The IMS of a device model inside the VMM, which triggers its vectors itself: slots in guest memory.
pub type SoftwareQueue = InterruptFunction<QueueStore, SoftwareDomain>;

impl<D: Domain> InterruptFunction<QueueStore, D> {
    /// The number of slots, and their control format.
    pub fn layout(&self) -> &QueueLayout {
        self.registers.layout()
    }

    /// See [`QueueStore::set_address`].
    ///
    /// # Errors
    /// The guest's mistake. Nothing has changed. A device model reports it to its guest.
    pub fn set_address(&self, slot: Vector, address: GuestAddress) -> Result<(), SlotRefusal> {
        self.registers.set_address(slot, address)
    }

    /// See [`QueueStore::clear_address`].
    ///
    /// Interrupts meanwhile: when this returns, none is delivered for the slot. They wait until the slot is
    /// used again or the function is reset.
    ///
    /// # Errors
    /// The guest's mistake. Nothing has changed.
    pub fn clear_address(&self, slot: Vector) -> Result<(), SlotRefusal> {
        let touched = self.registers.clear_address(slot)?;
        self.sync(touched);
        Ok(())
    }

    /// Handles the doorbell of a slot: the device reads the slot once. See [`QueueStore::fetch`].
    ///
    /// It waits only for the host. A doorbell register may call it, even if the driver rings with its
    /// interrupts disabled.
    ///
    /// Interrupts meanwhile: none is lost. When this returns, no interrupt is delivered for a slot that was
    /// read as masked, nor on the slot's old message.
    ///
    /// # Errors
    /// The guest's mistake. The slot is off, and its interrupts wait until a later read succeeds.
    pub fn fetch(&self, slot: Vector, memory: &impl GuestAddressSpace) -> Result<(), SlotRefusal> {
        let (touched, read) = self.registers.fetch(slot, memory);
        self.sync(touched);
        read
    }

    /// Reads the device's copies of the slots as an array, with their pending bits. `offset` is in bytes from
    /// the first slot. Guest memory is not written.
    pub fn read_copies(&self, offset: u64, data: &mut [u8]) {
        self.registers.read_copies(offset, data);
        with_pending(&self.domain, self.layout().control, offset, data);
    }
}
