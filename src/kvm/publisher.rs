//! Publishing: how a message gets into the table that the kernel has.
//!
//! Two locks. The routes' is held for a few instructions, so that a message that is published is found while a commit is
//! under way. The table's is held across a commit, and taken before the routes'. Who waits for it has said what it wants
//! before, and whoever gets it next publishes that for all: after the commit that is under way, one serves all who wait.
//! (The lock is not a fair one: who comes later may commit once more before one of them has seen that.)
//!
//! Invariant: between two holders of the table's lock, routes and table are what the kernel has. While one commits, the
//! routes have what is on its way besides, of which nothing is given out; a refused commit leaves both as before.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::KvmIrqRouting;

use super::ahead::{self, DEVICE_VECTORS};
use super::irqchip::Irqchip;
use super::routes::{Placed, RouteCounters, Routes};
use super::table::Table;
use crate::apic::ApicMessage;
use crate::router::{Route, RouterError};

/// The VM's messages.
#[derive(Debug)]
pub(super) struct Publisher {
    table: Mutex<Table>,
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    routes: Routes,
    /// What those who wait for the table want.
    wanted: Vec<ApicMessage>,
}

type Answers = Vec<Result<Route, RouterError>>;

impl Publisher {
    pub(super) fn new(irqchip: Irqchip, vcpus: u32) -> Self {
        let routes = Routes::new(irqchip.message_routes(), vcpus);
        Self {
            table: Mutex::new(Table::new(irqchip)),
            shared: Mutex::new(Shared { routes, wanted: Vec::new() }),
        }
    }

    /// As [`Router::publish`](crate::Router::publish); `commit` is the kernel's part.
    pub(super) fn publish(
        &self,
        messages: &[ApicMessage],
        answers: &mut Answers,
        commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>,
    ) {
        answers.clear();
        if self.shared().ask(messages, answers) {
            return;
        }
        let mut table = self.table();
        let placed = self.shared().place_wanted(messages, answers);
        if placed.is_empty() {
            return;
        }
        match self.hand_over(&mut table, &placed, commit) {
            Ok(mut shared) => shared.answer(messages, answers),
            Err(source) => {
                let routes = table.entries().as_slice().len();
                let refused: HashSet<ApicMessage> = placed.iter().map(|placed| placed.message).collect();
                for (_, answer) in
                    unanswered(messages, answers).filter(|(message, _)| refused.contains(message))
                {
                    *answer = Err(RouterError::Commit { routes, source: same(&source) });
                }
            }
        }
    }

    /// As [`KvmRouter::publish_destinations`](super::KvmRouter::publish_destinations).
    pub(super) fn publish_destinations(
        &self,
        apic_ids: impl IntoIterator<Item = u8>,
        commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>,
    ) -> Result<(), RouterError> {
        let mut table = self.table();
        let placed = {
            let Shared { routes, .. } = &mut *self.shared();
            for message in apic_ids.into_iter().flat_map(|id| ApicMessage::fixed(id, DEVICE_VECTORS)) {
                if routes.has_spare() {
                    routes.place(message);
                }
            }
            routes.placed().to_vec()
        };
        if placed.is_empty() {
            return Ok(());
        }
        let result = self.hand_over(&mut table, &placed, commit).map(drop);
        result.map_err(|source| RouterError::Commit { routes: table.entries().as_slice().len(), source })
    }

    pub(super) fn withdraw(&self, route: &Route) {
        self.shared().routes.withdraw(route);
    }

    pub(super) fn counters(&self) -> RouteCounters {
        self.shared().routes.counters()
    }

    /// Brings the table up to date and hands it to the kernel; the routes are as the kernel has them then, either way.
    fn hand_over(
        &self,
        table: &mut Table,
        placed: &[Placed],
        commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>,
    ) -> io::Result<MutexGuard<'_, Shared>> {
        let put = placed.iter().try_for_each(|placed| table.put(placed.index, placed.message));
        let result = put.and_then(|()| commit(table.entries()));
        let mut shared = self.shared();
        match result {
            Ok(()) => {
                shared.routes.settle();
                Ok(shared)
            }
            Err(error) => {
                shared.routes.take_back();
                table.take_back(placed, shared.routes.len());
                Err(error)
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Answers for what is published, up to the first that is not: who comes first has the first claim to room. The rest is
    /// noted for whoever has the table next; true where that is nothing.
    fn ask(&mut self, messages: &[ApicMessage], answers: &mut Answers) -> bool {
        let Self { routes, wanted } = self;
        let mut found = true;
        answers.extend(messages.iter().map(|message| {
            let route = if found { routes.find(*message) } else { None };
            found = route.is_some();
            route.ok_or_else(|| {
                wanted.push(*message);
                RouterError::NoRoom { message: *message, routes: routes.capacity() }
            })
        }));
        found
    }

    /// Answers for what is published now, and was not before.
    fn answer(&mut self, messages: &[ApicMessage], answers: &mut Answers) {
        for (message, answer) in unanswered(messages, answers) {
            if let Some(route) = self.routes.acquire(*message) {
                *answer = Ok(route);
            }
        }
    }

    /// Answers for what somebody has published meanwhile, and places what is missing of one's own; then what others wait
    /// for, and what may follow.
    fn place_wanted(&mut self, messages: &[ApicMessage], answers: &mut Answers) -> Vec<Placed> {
        let Self { routes, wanted } = self;
        for (message, answer) in unanswered(messages, answers) {
            match routes.find(*message) {
                Some(route) => *answer = Ok(route),
                None => routes.place(*message),
            }
        }
        wanted.drain(..).for_each(|message| routes.place(message));
        if !routes.placed().is_empty() {
            ahead::place(routes);
        }
        routes.placed().to_vec()
    }
}

/// Messages without a route so far.
fn unanswered<'a>(
    messages: &'a [ApicMessage],
    answers: &'a mut Answers,
) -> impl Iterator<Item = (&'a ApicMessage, &'a mut Result<Route, RouterError>)> {
    messages.iter().zip(answers).filter(|(_, answer)| answer.is_err())
}

/// The same error once more, for each vector that it befell.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests;
