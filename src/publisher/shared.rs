//! The state of a publisher behind its lock: the routes, the queued requests, and the table while no commit
//! is under way.
//!
//! Invariant: each request is in `waiting`, in `answered`, or with the leader of the commit that serves it.
//! Locking: the publisher's lock; see `mod.rs`.

use super::request::{Request, Ticket};
use super::routes::Routes;
use super::table::{Hypervisor, Table};

pub(super) struct Shared<H: Hypervisor> {
    pub(super) routes: Routes,
    /// `None` while a commit is under way: its leader has the table.
    pub(super) table: Option<Table<H>>,
    /// New entries of the embedder's own for the next commit, if they have changed.
    pub(super) own: Option<Vec<H::Entry>>,
    /// The requests that the next commit serves.
    pub(super) waiting: Vec<Request>,
    /// Answered requests that their callers have not taken yet.
    pub(super) answered: Vec<Request>,
    pub(super) tickets: Ticket,
    /// How many commits have ended, including refused ones.
    pub(super) ended: u64,
    pub(super) longest_wait: u64,
}

impl<H: Hypervisor> Shared<H> {
    pub(super) fn new(routes: Routes, table: Table<H>) -> Self {
        Self {
            routes,
            table: Some(table),
            own: None,
            waiting: Vec::new(),
            answered: Vec::new(),
            tickets: Ticket::default(),
            ended: 0,
            longest_wait: 0,
        }
    }

    pub(super) fn answer(&mut self, served: impl IntoIterator<Item = Request>) {
        for request in served {
            self.longest_wait = self.longest_wait.max(self.ended.saturating_sub(request.since));
            self.answered.push(request);
        }
    }

    /// Whether another caller may be waiting. The leader of the commit that has just ended has its own
    /// answers already. A notification without a waiter would still cost a system call.
    pub(super) fn others_wait(&self) -> bool {
        !self.waiting.is_empty() || self.answered.len() > 1
    }

    pub(super) fn has_answered(&self, ticket: Ticket) -> bool {
        self.answered.iter().any(|request| request.ticket == ticket)
    }

    pub(super) fn take_answered(&mut self, ticket: Ticket) -> Option<Request> {
        let index = self.answered.iter().position(|request| request.ticket == ticket)?;
        Some(self.answered.swap_remove(index))
    }
}
