//! Publishing: how messages get into the routing table of a hypervisor that replaces the table as a whole.
//!
//! Owns the table: the GSI of each message, its number of users, the prefetched messages, and the embedder's
//! own entries. The [`Hypervisor`] only puts a table in force. KVM is one
//! ([`kvm::KvmRouter`](crate::kvm::KvmRouter)).
//!
//! Invariant: a [`Route`] is returned only for a message in the table that is in force. The message keeps its
//! GSI until every route of it is put back. However a commit ends, each caller that it serves gets an answer,
//! and the publisher can commit again.
//!
//! Locking: one lock, held for a few instructions. A published message is therefore found while a commit is
//! under way. A caller whose message is missing queues a request. If no commit is under way, this caller
//! leads one: it takes the table out of the lock, commits the messages of all queued requests without the
//! lock, and answers all of them. Otherwise it waits. A caller therefore waits for two commits at most: the
//! one that was under way when it arrived, and the one that carries its own messages. The lock is taken after
//! a domain's. The GSI iterator is called under the lock and must not call the publisher.

mod commit;
mod counters;
mod gsis;
mod index;
mod prefetch;
mod request;
mod routes;
mod shared;
mod table;

use std::fmt;
use std::mem;
use std::sync::{Condvar, MutexGuard};

use crate::interrupt::Interrupt;
use crate::lock::{Mutex, wait_while};
use crate::router::{Gsi, Route, RouterError};
use commit::Commit;
pub use counters::RouteCounters;
use gsis::Gsis;
use request::{Answers, Request, Ticket};
#[cfg(feature = "kvm")]
pub(crate) use routes::DEVICE_VECTORS;
use routes::Routes;
use shared::Shared;
use table::Table;
pub use table::{ChangedRoute, Hypervisor, RoutingTable};

/// The messages of one VM, and their routes.
///
/// A [`Router`](crate::Router) is built around a publisher, and forwards these methods:
///
/// ```
/// use vm_msi::publisher::{Hypervisor, Publisher, RoutingTable};
/// use vm_msi::router::Gsi;
/// use vm_msi::{Interrupt, MsiMessage};
///
/// /// Takes (GSI, address, data) entries, and pins by their number.
/// struct Mine;
///
/// impl Hypervisor for Mine {
///     type Entry = u32;
///
///     fn commit(&mut self, table: RoutingTable<'_, u32>) -> std::io::Result<()> {
///         for (gsi, interrupt) in table.routes() {
///             println!("{gsi}: {interrupt}");
///         }
///         Ok(())
///     }
/// }
///
/// let publisher = Publisher::new(Mine, (24..4096).map(Gsi), 4000, 4).with_own_entries(vec![0, 1, 2]);
/// let interrupt = Interrupt::new(MsiMessage { address: 0xfee0_0000, data: 0x41 });
/// let mut routes = Vec::new();
/// publisher.get_or_publish(&[interrupt], &mut routes);
/// let route = routes.pop().unwrap()?;
/// assert_eq!(route.gsi(), Gsi(24));
/// publisher.put(route);
/// # Ok::<(), vm_msi::router::RouterError>(())
/// ```
pub struct Publisher<H: Hypervisor> {
    shared: Mutex<Shared<H>>,
    /// Notified when a commit has ended. Its requests are answered then, and a caller that still waits may
    /// lead the next commit.
    ended: Condvar,
}

impl<H: Hypervisor> Publisher<H> {
    /// A publisher for a VM whose table has room for `capacity` messages beside the embedder's own entries,
    /// at most 65,534.
    ///
    /// `gsis` is the embedder's allocator. The publisher takes one GSI at a time as the table grows, and
    /// keeps it for its own life. The allocator may have no GSI for some time: a new message then replaces an
    /// unused one. It must return only GSIs that the hypervisor accepts.
    ///
    /// `vcpus` is the number of vCPUs. With fewer vCPUs, more messages of each are prefetched.
    pub fn new(
        hypervisor: H,
        gsis: impl Iterator<Item = Gsi> + Send + 'static,
        capacity: usize,
        vcpus: u32,
    ) -> Self {
        let shared = Shared::new(Routes::new(Gsis::new(gsis), capacity, vcpus), Table::new(hypervisor));
        Self { shared: Mutex::new(shared), ended: Condvar::new() }
    }

    /// Adds entries of the embedder's own, which each commit carries. Nothing is committed now.
    #[must_use]
    pub fn with_own_entries(mut self, entries: Vec<H::Entry>) -> Self {
        let shared = self.shared.get_mut();
        if let Some(table) = &mut shared.table {
            drop(table.set_own(entries));
        }
        self
    }

    /// Replaces all entries of the embedder's own with one commit. Of several concurrent calls, the last one
    /// counts.
    ///
    /// Interrupts meanwhile: messages stay published. If the hypervisor refuses the new entries, the old ones
    /// stay in force, and messages of the same commit are published without the new entries.
    ///
    /// # Errors
    /// [`RouterError::Commit`]: the hypervisor refused the table.
    pub fn set_own_entries(&self, entries: Vec<H::Entry>) -> Result<(), RouterError> {
        let mut shared = self.shared.lock();
        shared.own = Some(entries);
        let request = |ticket, shared: &Shared<H>| Request::of_own_entries(ticket, shared.ended);
        let request = self.serve(shared, request);
        request.and_then(|request| request.own).unwrap_or(Ok(()))
    }

    /// A route of a published message, or `None` if the message is not published. See
    /// [`Router`](crate::Router).
    pub fn get(&self, interrupt: Interrupt) -> Option<Route> {
        let gsi = self.shared.lock().routes.get(H::key(interrupt))?;
        Some(Route::new(gsi, interrupt))
    }

    /// Returns a route for each message. One commit publishes all messages that are missing. See
    /// [`Router`](crate::Router).
    pub fn get_or_publish(&self, interrupts: &[Interrupt], answers: &mut Answers) {
        answers.clear();
        let mut shared = self.shared.lock();
        // Up to the first missing message, which must get room before later ones.
        answers.extend(interrupts.iter().map_while(|interrupt| {
            let gsi = shared.routes.get(H::key(*interrupt))?;
            Some(Ok(Route::new(gsi, *interrupt)))
        }));
        let missing = interrupts.get(answers.len()..).unwrap_or_default();
        if missing.is_empty() {
            return;
        }
        let request = |ticket, shared: &Shared<H>| {
            let wanted = missing.iter().map(|interrupt| (*interrupt, H::key(*interrupt)));
            Request::new(ticket, shared.ended, wanted, shared.routes.capacity())
        };
        if let Some(mut request) = self.serve(shared, request) {
            answers.append(&mut request.answers);
        }
    }

    /// Puts a route back. The message stays published until its room is needed.
    pub fn put(&self, route: Route) {
        self.shared.lock().routes.put(route.gsi());
    }

    /// Publishes messages that are likely to be needed, with one commit, while the table has free room. They
    /// have no users yet.
    ///
    /// # Errors
    /// [`RouterError::Commit`]: the hypervisor refused the table, and the old one stays in force.
    pub fn prefetch(&self, interrupts: impl IntoIterator<Item = Interrupt>) -> Result<(), RouterError> {
        let missing = {
            let routes = &mut self.shared.lock().routes;
            let missing = interrupts.into_iter().filter(|interrupt| !routes.has(H::key(*interrupt)));
            let mut missing: Vec<_> = missing.take(routes.spare()).collect();
            missing.truncate(routes.reserve(missing.len()));
            missing
        };
        let mut answers = Vec::new();
        self.get_or_publish(&missing, &mut answers);
        let mut result = Ok(());
        for answer in answers {
            match answer {
                Ok(route) => self.put(route),
                // Another caller has taken the room meanwhile.
                Err(RouterError::NoRoom { .. }) => {}
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// The contents and the cost of the routing table so far.
    pub fn counters(&self) -> RouteCounters {
        let shared = self.shared.lock();
        RouteCounters { longest_wait: shared.longest_wait, ..shared.routes.counters() }
    }

    /// Queues a request, and waits for its answers. Leads a commit if none is under way.
    fn serve<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared<H>>,
        request: impl FnOnce(Ticket, &Shared<H>) -> Request,
    ) -> Option<Request> {
        let ticket = shared.tickets.next();
        let request = request(ticket, &shared);
        shared.waiting.push(request);
        let must_wait = |shared: &mut Shared<H>| shared.table.is_none() && !shared.has_answered(ticket);
        shared = wait_while(&self.ended, shared, must_wait);
        if !shared.has_answered(ticket) {
            shared = self.lead(shared);
        }
        shared.take_answered(ticket)
    }

    /// Serves all queued requests with one commit, or without one if no message has room.
    fn lead<'a>(&'a self, mut guard: MutexGuard<'a, Shared<H>>) -> MutexGuard<'a, Shared<H>> {
        let shared = &mut *guard;
        shared.routes.allocate_again();
        for request in &mut shared.waiting {
            request.get_or_add(&mut shared.routes);
        }
        let served = mem::take(&mut shared.waiting);
        let own = shared.own.take();
        let is_needed = own.is_some() || !shared.routes.pending().is_empty();
        let Some(table) = shared.table.take_if(|_| is_needed) else {
            shared.answer(served);
            return guard;
        };
        prefetch::add(&mut shared.routes);
        let pending = shared.routes.begin();
        drop(guard);
        Commit::new(&self.shared, &self.ended, table, pending, served).run(own);
        self.shared.lock()
    }
}

impl<H: Hypervisor> fmt::Debug for Publisher<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
