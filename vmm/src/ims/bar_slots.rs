//! The slots in BAR 2: registers and triggers. The VMM fires their interrupts itself, or a host device does
//! ([`crate::mediated`]).

use std::os::fd::RawFd;

use serde_json::{Map, Value};
use vm_msi::domain::{BusMaster, SoftwareDomain};
use vm_msi::ims::SlotArrayLayout;
use vm_msi::{Delivery, InterruptFunction, Registers, SoftwareIms, Vector};

use crate::report;

/// The result of a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Triggered {
    /// The interrupt is delivered or pending.
    Taken,
    /// The slot is off.
    Dropped,
}

/// Triggers a slot if it is in use. A freed slot keeps no interrupt for its next user.
pub fn trigger<C: Registers>(slots: &InterruptFunction<C, SoftwareDomain>, slot: Vector) -> Triggered {
    if slots.look(|slots| slots.delivery(slot)) == Delivery::Off {
        return Triggered::Dropped;
    }
    slots.trigger(slot);
    Triggered::Taken
}

/// The slots of one device. All calls but reads are made under the device's lock.
pub trait BarSlots: Send + Sync {
    /// The number of slots and the format of their control register.
    fn layout(&self) -> SlotArrayLayout;
    /// Reads the slots. `offset` counts from the first one.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes the slots.
    fn write(&self, offset: u64, data: &[u8]);
    /// Triggers a slot if it is in use.
    fn trigger(&self, slot: Vector) -> Triggered;
    /// Sets Bus Master Enable. While it is clear, interrupts are pending.
    fn set_bus_master(&self, bus_master: BusMaster);
    /// Resets the slots to their power-on state.
    fn reset(&self);
    /// Releases host resources after a reset of the function, or when it is removed.
    fn quiesce(&self) {}
    /// Retries refused host calls.
    fn retry(&self);
    /// A descriptor that is ready while [`BarSlots::deliver_relayed`] has work. It lives as long as the slots.
    fn relay_fd(&self) -> Option<RawFd> {
        None
    }
    /// Delivers relayed interrupts.
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
