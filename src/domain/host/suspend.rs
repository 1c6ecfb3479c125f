//! Holding every vector, whatever the store says: suspension, Bus Master Enable, and teardown.

use super::Host;
use crate::delivery::{Store, Vector};
use crate::domain::bus_master::BusMaster;
use crate::domain::owed::Later;
use crate::domain::slot::Slot;
use crate::router::Router;
use crate::state::{PendingBits, SuspendError};

impl Host {
    /// Holds every vector until [`Host::resume`], and returns the vectors for which interrupts wait here.
    pub(in crate::domain) fn suspend(
        &mut self,
        router: &dyn Router,
        store: &dyn Store,
    ) -> Result<PendingBits, SuspendError> {
        self.suspended = true;
        let used: Vec<Vector> = self.slots.iter().map(|(vector, _)| vector).collect();
        self.owed.begin(used.into_iter());
        self.hold_work(router);
        self.end_sync();
        let delivering = self.slots.iter().find(|(_, slot)| slot.target().is_some());
        let refused =
            delivering.map(|(vector, _)| vector).and_then(|vector| match self.owed.remove(vector) {
                Some(Later::Failed(source)) => Some(SuspendError { vector, source }),
                Some(Later::Deferred | Later::Expires(_)) | None => None,
            });
        match refused {
            None => Ok(self.pending_to_save()),
            Some(error) => {
                self.resume(router, store);
                Err(error)
            }
        }
    }

    /// Holds every vector while the bus lets the function send nothing. Otherwise brings each vector to what the store says.
    pub(in crate::domain) fn set_bus_master(
        &mut self,
        router: &dyn Router,
        store: &dyn Store,
        bus_master: BusMaster,
    ) {
        if std::mem::replace(&mut self.bus_master, bus_master) != bus_master {
            self.sync_vectors(router, store, self.all());
        }
    }

    /// Ends the suspension, and brings every vector to what the store says.
    pub(in crate::domain) fn resume(&mut self, router: &dyn Router, store: &dyn Store) {
        if std::mem::take(&mut self.suspended) {
            self.sync_vectors(router, store, self.all());
        }
    }

    /// Closes the window, opens it again and binds every vector again.
    pub(in crate::domain) fn rearm(&mut self, router: &dyn Router, store: &dyn Store) {
        self.owed.begin(self.all());
        if self.window > 0 {
            self.close(router);
        }
        self.detach_stale(router, store);
        self.attach_ready(router);
        self.end_sync();
    }

    /// Detaches and releases every vector for good.
    pub(in crate::domain) fn tear_down(&mut self, router: &dyn Router) {
        if !self.is_torn_down {
            self.maintenance.warn_if_unmaintained();
        }
        self.is_torn_down = true;
        self.close(router);
    }

    /// Makes interrupts wait for exactly these vectors.
    pub(in crate::domain) fn set_pending(&mut self, pending: &PendingBits) {
        self.clear_pending();
        for vector in pending.vectors() {
            self.slots.update_one(vector, Slot::latch);
        }
    }
}
