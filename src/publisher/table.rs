//! The routing table as a hypervisor is handed it: the embedder's own entries, and one entry for each message.
//!
//! Owns the hypervisor and the entries, which are changed in place between commits. Invariant: entry n of the messages is that of
//! slot n of the routes. Locking: none of its own. The thread that leads a commit has the table to itself.

use std::io;
use std::mem;

use super::routes::PendingRoute;
use crate::interrupt::Interrupt;
use crate::router::Gsi;

/// A hypervisor that takes the routing table of a VM as a whole.
pub trait Hypervisor: Send {
    /// An entry of the embedder's own, such as an irqchip's pin, a Hyper-V synthetic interrupt or a Xen event channel. The publisher
    /// keeps these and does not look at them.
    type Entry: Send;

    /// What tells two routes apart. By default two devices that send the same message have two routes.
    ///
    /// A hypervisor that ignores device IDs answers the interrupt without its device, and devices then share routes.
    fn key(interrupt: Interrupt) -> Interrupt {
        interrupt
    }

    /// Puts `table` in force in place of the table before it. One call at a time; the publisher's lock is not held.
    ///
    /// # Errors
    /// The hypervisor refuses the table. The table before it must be in force still.
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
    /// Its GSI, which that index keeps.
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

    /// The routes that differ from the table before, for a hypervisor that keeps that one and changes it in place. The routes
    /// that are new come last in [`routes`](Self::routes).
    ///
    /// `None` if any entry may differ: the table is the first one, the last one was refused, or the embedder's own entries have changed.
    pub fn changed(&self) -> Option<impl ExactSizeIterator<Item = ChangedRoute> + use<'a, E>> {
        let route = |pending: &PendingRoute| ChangedRoute {
            index: pending.index,
            gsi: pending.gsi,
            interrupt: pending.key,
        };
        Some(self.changed?.iter().map(route))
    }
}

/// What the next table differs in from that in force.
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

    /// How many entries it has.
    pub(super) fn len(&self) -> usize {
        self.own.len().saturating_add(self.routes.len())
    }

    /// Replaces the embedder's own entries, and answers those before.
    pub(super) fn set_own(&mut self, entries: Vec<H::Entry>) -> Vec<H::Entry> {
        self.changes = Changes::Anything;
        mem::replace(&mut self.own, entries)
    }

    /// Puts messages in their entries, each of which exists or is the next one.
    pub(super) fn put(&mut self, pending: &[PendingRoute]) {
        for PendingRoute { index, gsi, key, .. } in pending {
            match self.routes.get_mut(*index) {
                Some(route) => *route = (*gsi, *key),
                None => self.routes.push((*gsi, *key)),
            }
        }
    }

    /// Hands the table over; `pending` was [put](Self::put) in it since the last time.
    pub(super) fn commit(&mut self, pending: &[PendingRoute]) -> io::Result<()> {
        let changed = (self.changes == Changes::PendingRoutes).then_some(pending);
        // Also what holds if the hypervisor panics.
        self.changes = Changes::Anything;
        self.hypervisor.commit(RoutingTable { own: &self.own, routes: &self.routes, changed })?;
        self.changes = Changes::PendingRoutes;
        Ok(())
    }

    /// The table in force once more, of `routes` messages, after a refusal of `pending`.
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
