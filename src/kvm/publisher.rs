//! Publishing: how a message gets into the table that the kernel has.
//!
//! One lock, held for a few instructions and for no system call, so that a message that is published is found while a
//! commit is under way. Who finds one missing says so. Whoever then finds no commit under way leads one: it takes the table
//! out, hands it over with all that anybody misses, and answers everybody. So nobody waits for a commit but the one that
//! was under way when it came and the one that carries its own messages, however many come after it.
//!
//! Invariant: while the table is here, routes and table are what the kernel has. While it is not, the routes have what
//! is on its way besides, of which nothing is given out. However a commit ends (the kernel may refuse it), all whom it was
//! to serve are answered and the table is back.

use std::io;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use kvm_bindings::KvmIrqRouting;

use super::irqchip::Irqchip;
use super::prefetch::{self, DEVICE_VECTORS};
use super::request::{Answers, Request, Ticket};
use super::routes::{PendingRoute, RouteCounters, Routes};
use super::table::Table;
use crate::apic::ApicMessage;
use crate::interrupt::Interrupt;
use crate::router::{Route, RouterError};

/// The VM's messages.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Mutex<Shared>,
    /// A commit has ended: some are answered, and one of the others may lead the next.
    ended: Condvar,
}

#[derive(Debug)]
struct Shared {
    routes: Routes,
    /// Whoever leads a commit has it.
    table: Option<Table>,
    /// Those whom the next commit serves.
    waiting: Vec<Request>,
    /// Those who have not seen yet that they were served.
    answered: Vec<Request>,
    tickets: Ticket,
    /// Commits that have ended, also those that the kernel refused.
    ended: u64,
    longest_wait: u64,
}

impl Publisher {
    /// With room for `capacity` messages beside the irqchip's pins.
    pub(super) fn with_capacity(irqchip: Irqchip, capacity: usize, vcpus: u32) -> Self {
        let shared = Shared {
            routes: Routes::new(capacity, vcpus),
            table: Some(Table::new(irqchip)),
            waiting: Vec::new(),
            answered: Vec::new(),
            tickets: Ticket::default(),
            ended: 0,
            longest_wait: 0,
        };
        Self { shared: Mutex::new(shared), ended: Condvar::new() }
    }

    /// As [`Router::find`](crate::Router::find).
    pub(super) fn find(&self, message: Interrupt) -> Option<Route> {
        self.shared().routes.find(message)
    }

    /// As [`Router::publish`](crate::Router::publish); `commit` is the kernel's part.
    pub(super) fn publish(
        &self,
        messages: &[Interrupt],
        answers: &mut Answers,
        commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>,
    ) {
        answers.clear();
        let mut shared = self.shared();
        // Up to the first that is missing: who comes first has the first claim to room.
        answers.extend(messages.iter().map_while(|message| shared.routes.find(*message)).map(Ok));
        let missing = messages.get(answers.len()..).unwrap_or_default();
        if missing.is_empty() {
            return;
        }
        let ticket = shared.ask(missing);
        let not_yet = |shared: &mut Shared| shared.table.is_none() && !shared.has_answered(ticket);
        shared = self.ended.wait_while(shared, not_yet).unwrap_or_else(PoisonError::into_inner);
        if !shared.has_answered(ticket) {
            shared = self.lead(shared, commit);
        }
        shared.take_answers(ticket, answers);
    }

    /// As [`KvmRouter::publish_destinations`](super::KvmRouter::publish_destinations).
    pub(super) fn publish_destinations(
        &self,
        apic_ids: impl IntoIterator<Item = u32>,
        commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>,
    ) -> Result<(), RouterError> {
        let messages = {
            let routes = &self.shared().routes;
            let all = apic_ids
                .into_iter()
                .flat_map(|id| ApicMessage::fixed(id, DEVICE_VECTORS))
                .map(Interrupt::from);
            all.filter(|message| !routes.has(*message)).take(routes.spare()).collect::<Vec<_>>()
        };
        let mut answers = Vec::new();
        self.publish(&messages, &mut answers, commit);
        let mut result = Ok(());
        for answer in answers {
            match answer {
                Ok(route) => self.withdraw(&route),
                // Somebody else has taken the room meanwhile.
                Err(RouterError::NoRoom { .. }) => {}
                Err(error) => result = Err(error),
            }
        }
        result
    }

    pub(super) fn withdraw(&self, route: &Route) {
        self.shared().routes.withdraw(route);
    }

    pub(super) fn counters(&self) -> RouteCounters {
        let shared = self.shared();
        RouteCounters { longest_wait: shared.longest_wait, ..shared.routes.counters() }
    }

    /// Serves all who wait: by one commit, unless what they miss has no room.
    fn lead<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>,
    ) -> MutexGuard<'a, Shared> {
        let Shared { routes, table, waiting, .. } = &mut *shared;
        waiting.iter_mut().for_each(|request| request.find_or_place(routes));
        let served = mem::take(waiting);
        let Some(table) = table.take_if(|_| !routes.placed().is_empty()) else {
            shared.answer(served);
            return shared;
        };
        prefetch::place(routes);
        let placed = routes.placed().to_vec();
        drop(shared);
        let result = Err(io::ErrorKind::Other.into());
        UnderWay { publisher: self, table: Some(table), placed, served, result }.hand_over(commit);
        self.shared()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The next commit is to serve these too.
    fn ask(&mut self, messages: &[Interrupt]) -> Ticket {
        let ticket = self.tickets.next();
        self.waiting.push(Request::new(ticket, self.ended, messages, self.routes.capacity()));
        ticket
    }

    fn answer(&mut self, served: impl IntoIterator<Item = Request>) {
        for request in served {
            self.longest_wait = self.longest_wait.max(self.ended.saturating_sub(request.since));
            self.answered.push(request);
        }
    }

    /// Whether anybody may wait besides who has led the commit that has just ended, and has its answer here already. It costs
    /// a system call to tell nobody.
    fn others_wait(&self) -> bool {
        !self.waiting.is_empty() || self.answered.len() > 1
    }

    fn has_answered(&self, ticket: Ticket) -> bool {
        self.answered.iter().any(|request| request.ticket == ticket)
    }

    fn take_answers(&mut self, ticket: Ticket, answers: &mut Answers) {
        if let Some(place) = self.answered.iter().position(|request| request.ticket == ticket) {
            answers.append(&mut self.answered.swap_remove(place).answers);
        }
    }
}

/// A commit, which has ended when this is dropped: one that panics, as one that the kernel refuses.
struct UnderWay<'a> {
    publisher: &'a Publisher,
    table: Option<Table>,
    placed: Vec<PendingRoute>,
    /// Whom it is to answer.
    served: Vec<Request>,
    result: io::Result<()>,
}

impl UnderWay<'_> {
    fn hand_over(mut self, commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>) {
        let Self { table: Some(table), placed, result, .. } = &mut self else { return };
        *result = table.put(placed).and_then(|()| commit(table.entries()));
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Self { publisher, table: Some(table), placed, served, result } = self else { return };
        let shared = &mut *publisher.shared();
        shared.ended = shared.ended.saturating_add(1);
        match result {
            Ok(()) => {
                shared.routes.settle();
                served.iter_mut().for_each(|request| request.acquire(&mut shared.routes));
            }
            Err(source) => {
                let entries = table.entries().as_slice().len();
                let refused = placed.iter().map(|placed| placed.message).collect();
                served.iter_mut().for_each(|request| request.refuse(&refused, entries, source));
                shared.routes.take_back();
                table.take_back(placed, shared.routes.len());
            }
        }
        shared.answer(mem::take(served));
        // All that some of the others miss may have been published ahead.
        let Shared { waiting, routes, .. } = shared;
        let found: Vec<_> = waiting.extract_if(.., |request| request.find(routes)).collect();
        shared.answer(found);
        shared.table = self.table.take();
        if shared.others_wait() {
            publisher.ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
