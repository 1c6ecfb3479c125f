//! The routing table as the hypervisor gets it: the embedder's own entries, and one entry for each message.
//!
//! Owns the hypervisor and the entries, which are changed in place between commits. Invariant: message entry
//! n is the message of slot n of the routes. Locking: none of its own. Only the thread that leads a commit
//! uses the table.

use std::io;
use std::mem;

use super::routes::PendingRoute;
use crate::interrupt::Interrupt;
use crate::router::Gsi;

/// A hypervisor that replaces the routing table of a VM as a whole.
pub trait Hypervisor: Send {
    /// An entry of the embedder's own, such as a pin of an irqchip, a Hyper-V synthetic interrupt or a Xen
    /// event channel. The publisher stores these entries and does not interpret them.
    type Entry: Send;

    /// The identity of a route. By default, two devices that send the same message have two routes.
    ///
    /// A hypervisor that ignores device IDs returns the interrupt without its device. Devices then share
    /// routes.
    fn key(interrupt: Interrupt) -> Interrupt {
        interrupt
    }

    /// Replaces the table in force by `table`. The publisher makes one call at a time, without its lock.
    ///
    /// # Errors
    /// The hypervisor refuses the table. The old table must then still be in force.
    fn commit(&mut self, table: RoutingTable<'_, Self::Entry>) -> io::Result<()>;
}

/// A table to put in force.
#[derive(Debug)]
pub struct RoutingTable<'a, E> {
    own: &'a [E],
    routes: &'a [(Gsi, Interrupt)],
    changed: Option<&'a [PendingRoute]>,
}

/// A route that differs from the last table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedRoute {
    /// Its index in [`RoutingTable::routes`].
    pub index: usize,
    /// Its GSI. A GSI never changes its index.
    pub gsi: Gsi,
    /// Its message.
    pub interrupt: Interrupt,
}

impl<'a, E> RoutingTable<'a, E> {
    /// The embedder's own entries.
    pub fn own_entries(&self) -> &'a [E] {
        self.own
    }

    /// All messages. No GSI appears twice.
    pub fn routes(&self) -> &'a [(Gsi, Interrupt)] {
        self.routes
    }

    /// The routes that differ from the last table, for a hypervisor that keeps a copy and changes it in
    /// place. New routes are at the end of [`routes`](Self::routes).
    ///
    /// `None` if any entry may differ: this table is the first one, the last one was refused, or the
    /// embedder's own entries have changed.
    pub fn changed(&self) -> Option<impl ExactSizeIterator<Item = ChangedRoute> + use<'a, E>> {
        let route = |pending: &PendingRoute| ChangedRoute {
            index: pending.index,
            gsi: pending.gsi,
            interrupt: pending.key,
        };
        Some(self.changed?.iter().map(route))
    }
}

/// The difference between the next table and the one in force.
#[derive(Debug, PartialEq, Eq)]
enum Changes {
    Anything,
    PendingRoutes,
}

#[derive(Debug)]
pub(super) struct Table<H: Hypervisor> {
    hypervisor: H,
    own: Vec<H::Entry>,
    routes: Vec<(Gsi, Interrupt)>,
    changes: Changes,
}

impl<H: Hypervisor> Table<H> {
    pub(super) fn new(hypervisor: H) -> Self {
        Self { hypervisor, own: Vec::new(), routes: Vec::new(), changes: Changes::Anything }
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.own.len().saturating_add(self.routes.len())
    }

    /// Replaces the embedder's own entries, and returns the old ones.
    pub(super) fn set_own(&mut self, entries: Vec<H::Entry>) -> Vec<H::Entry> {
        self.changes = Changes::Anything;
        mem::replace(&mut self.own, entries)
    }

    /// Writes messages to their entries. Each entry exists or is the next new one.
    pub(super) fn put(&mut self, pending: &[PendingRoute]) {
        for PendingRoute { index, gsi, key, .. } in pending {
            match self.routes.get_mut(*index) {
                Some(route) => *route = (*gsi, *key),
                None => self.routes.push((*gsi, *key)),
            }
        }
    }

    /// Commits the table. `pending` are the messages that were [put](Self::put) since the last commit.
    pub(super) fn commit(&mut self, pending: &[PendingRoute]) -> io::Result<()> {
        let changed = (self.changes == Changes::PendingRoutes).then_some(pending);
        // Also the state after a panic of the hypervisor.
        self.changes = Changes::Anything;
        self.hypervisor.commit(RoutingTable { own: &self.own, routes: &self.routes, changed })?;
        self.changes = Changes::PendingRoutes;
        Ok(())
    }

    /// Restores the table in force, which has `routes` messages, after a refusal of `pending`.
    pub(super) fn take_back(&mut self, pending: &[PendingRoute], routes: usize) {
        for PendingRoute { index, gsi, before, .. } in pending {
            if let (Some(before), Some(route)) = (before, self.routes.get_mut(*index)) {
                *route = (*gsi, *before);
            }
        }
        self.routes.truncate(routes);
    }
}

#[cfg(test)]
impl<H: Hypervisor> Table<H> {
    pub(super) fn routes(&self) -> &[(Gsi, Interrupt)] {
        &self.routes
    }
}
