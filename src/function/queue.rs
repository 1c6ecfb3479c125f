//! The part of a function's interrupts that is slots in guest memory: the commands by which a driver tells the device of
//! them. Which register is which command is the device's to say.

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
    /// How many slots there are, and what their control is.
    pub fn layout(&self) -> &QueueLayout {
        self.registers.layout()
    }

    /// See [`QueueStore::place`].
    ///
    /// # Errors
    /// The guest's mistake, with nothing changed; a device model shows it to its guest.
    pub fn place(&self, slot: Vector, address: GuestAddress) -> Result<(), SlotRefusal> {
        self.registers.place(slot, address)
    }

    /// See [`QueueStore::unplace`].
    ///
    /// Interrupts meanwhile: when this has returned none is delivered for the slot any more; one that waited, or comes
    /// later, waits until the slot is used again or the function is reset.
    ///
    /// # Errors
    /// The guest's mistake, with nothing changed.
    pub fn unplace(&self, slot: Vector) -> Result<(), SlotRefusal> {
        let touched = self.registers.unplace(slot)?;
        self.sync(touched);
        Ok(())
    }

    /// The driver rings for a slot: the device reads it, now and once. See [`QueueStore::fetch`].
    ///
    /// It waits for nobody but the host, so the write of a register may stand for it, also where a driver's interrupts
    /// are off. Interrupts meanwhile: none is lost; when this has returned none is delivered for a slot that was read
    /// as masked, nor on a message that the slot had before.
    ///
    /// # Errors
    /// The guest's mistake; the slot is off then, and its interrupts wait until it was read.
    pub fn fetch(&self, slot: Vector, memory: &impl GuestAddressSpace) -> Result<(), SlotRefusal> {
        let (touched, read) = self.registers.fetch(slot, memory);
        self.sync(touched);
        read
    }

    /// Reads the slots as they are in force, as if they were an array; `offset` counts from the first. For a device that
    /// shows them: the pending bits are told here, and nothing is written to guest memory.
    pub fn read_copies(&self, offset: u64, data: &mut [u8]) {
        self.registers.read_copies(offset, data);
        with_pending(&self.domain, self.layout().control, offset, data);
    }
}
