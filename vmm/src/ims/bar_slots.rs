//! The slots in BAR 2, as a device knows them: registers, and a way to trigger one. Who fires their interrupts is behind
//! it: the VMM itself here, a device of the host's in [`crate::mediated`].

use std::os::fd::RawFd;

use serde_json::{Map, Value};
use vm_msi::domain::{BusMaster, SoftwareDomain};
use vm_msi::ims::SlotArrayLayout;
use vm_msi::{Delivery, InterruptFunction, Registers, SoftwareIms, Vector};

use crate::report;

/// What became of a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Triggered {
    /// It is delivered, or waits.
    Taken,
    /// The slot is off: nobody waits for it.
    Dropped,
}

/// Triggers a slot, if it is in use. What a driver has freed keeps no interrupt for its next owner.
pub fn trigger<C: Registers>(slots: &InterruptFunction<C, SoftwareDomain>, slot: Vector) -> Triggered {
    if slots.look(|slots| slots.delivery(slot)) == Delivery::Off {
        return Triggered::Dropped;
    }
    slots.trigger(slot);
    Triggered::Taken
}

/// The slots of one device. All but the reads happen under the device's lock.
pub trait BarSlots: Send + Sync {
    /// How many there are, and what their control is.
    fn layout(&self) -> SlotArrayLayout;
    /// Reads them; the offset counts from the first.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes them.
    fn write(&self, offset: u64, data: &[u8]);
    /// Triggers one, if it is in use.
    fn trigger(&self, slot: Vector) -> Triggered;
    /// The bus lets the device signal, or keeps it from it: interrupts wait then.
    fn set_bus_master(&self, bus_master: BusMaster);
    /// Back to what they were after power-on.
    fn reset(&self);
    /// The device has been reset as a whole or goes: after the reset of the slots nothing is held of the host for them.
    fn quiesce(&self) {}
    /// Tries again what the host refused.
    fn retry(&self);
    /// A descriptor that lives as long as the slots, and is readable while [`BarSlots::deliver_relayed`] has something to do.
    fn relay_fd(&self) -> Option<RawFd> {
        None
    }
    /// Delivers what the kernel has no room for.
    fn deliver_relayed(&self) {}
    /// Their part of the report.
    fn report(&self) -> Map<String, Value>;
}

/// Slots that the VMM fires itself.
impl BarSlots for SoftwareIms {
    fn layout(&self) -> SlotArrayLayout {
        *Self::layout(self)
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read_slots(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.write_slots(offset, data);
    }

    fn trigger(&self, slot: Vector) -> Triggered {
        trigger(self, slot)
    }

    fn set_bus_master(&self, bus_master: BusMaster) {
        InterruptFunction::set_bus_master(self, bus_master);
    }

    fn reset(&self) {
        InterruptFunction::reset(self, || ());
    }

    fn retry(&self) {
        InterruptFunction::retry(self);
    }

    fn report(&self) -> Map<String, Value> {
        [("slots".to_owned(), report::software(self))].into_iter().collect()
    }
}
