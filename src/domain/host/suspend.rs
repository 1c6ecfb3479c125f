//! Reasons to hold every vector, whatever the store says: suspension, where what waits can be told; and a bus that does
//! not let the device signal.

use super::Host;
use crate::delivery::{Store, Vector};
use crate::domain::BusMaster;
use crate::domain::slot::Slot;
use crate::router::Router;
use crate::state::{PendingBits, SuspendError};

impl Host {
    /// Holds every vector until [`Host::resume`], and tells for which of them interrupts wait here.
    pub(in crate::domain) fn suspend(
        &mut self,
        router: &dyn Router,
        store: &dyn Store,
    ) -> Result<PendingBits, SuspendError> {
        self.suspended = true;
        self.hold_all(router, |_| true);
        let delivered = self.slots.iter().find(|(_, slot)| slot.message().is_some());
        let refused = delivered.map(|(vector, _)| vector).and_then(|vector| {
            let source = self.unsettled.remove(&vector)?;
            Some(SuspendError { vector, source })
        });
        match refused {
            None => {
                Ok(PendingBits::collect(self.slots.capacity() as u32, Slot::wait_here(self.slots.iter())))
            }
            Some(error) => {
                self.resume(router, store);
                Err(error)
            }
        }
    }

    /// Holds every vector, or lets each go where the store says.
    pub(in crate::domain) fn set_bus_master(
        &mut self,
        router: &dyn Router,
        store: &dyn Store,
        bus_master: BusMaster,
    ) {
        if std::mem::replace(&mut self.bus_master, bus_master) != bus_master {
            self.settle(router, store, (0..self.slots.capacity() as u32).map(Vector));
        }
    }

    /// Lets vectors go where the store says again.
    pub(in crate::domain) fn resume(&mut self, router: &dyn Router, store: &dyn Store) {
        if std::mem::take(&mut self.suspended) {
            self.settle(router, store, (0..self.slots.capacity() as u32).map(Vector));
        }
    }

    /// From now on interrupts wait for exactly these vectors.
    pub(in crate::domain) fn set_pending(&mut self, pending: &PendingBits) {
        self.clear_pending();
        for vector in pending.vectors() {
            let mut slot = self.slots.take(vector);
            slot.latch();
            self.slots.put(vector, slot);
        }
    }
}
