//! The missing messages of one caller, and their answers.
//!
//! Invariant: a message without a route has the answer "no room" until it has a route or a commit has refused
//! it. Locking: none of its own; see `mod.rs`.

use std::collections::HashSet;
use std::io;

use super::routes::Routes;
use crate::interrupt::Interrupt;
use crate::router::{Gsi, Route, RouterError};

/// One answer for each message, in order.
pub(super) type Answers = Vec<Result<Route, RouterError>>;

/// Identifies a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Ticket {
    /// A ticket that no other waiting request has.
    pub(super) fn next(&mut self) -> Self {
        self.0 = self.0.wrapping_add(1);
        *self
    }
}

/// A message, and its key in the table.
#[derive(Debug)]
struct Wanted {
    interrupt: Interrupt,
    key: Interrupt,
}

impl Wanted {
    fn route(&self, gsi: Gsi) -> Route {
        Route::new(gsi, self.interrupt)
    }
}

/// The request of one caller: for routes, or for new entries of the embedder's own.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ticket: Ticket,
    /// How many commits had ended before the request.
    pub(super) since: u64,
    wanted: Vec<Wanted>,
    pub(super) answers: Answers,
    /// The result for the embedder's own entries, if the request is for these.
    pub(super) own: Option<Result<(), RouterError>>,
}

impl Request {
    /// A request for the routes of messages, each with its key, in a table with room for `capacity` messages.
    pub(super) fn new(
        ticket: Ticket,
        since: u64,
        wanted: impl Iterator<Item = (Interrupt, Interrupt)>,
        capacity: usize,
    ) -> Self {
        let wanted: Vec<_> = wanted.map(|(interrupt, key)| Wanted { interrupt, key }).collect();
        let no_room =
            |wanted: &Wanted| Err(RouterError::NoRoom { message: wanted.interrupt, routes: capacity });
        let answers = wanted.iter().map(no_room).collect();
        Self { ticket, since, wanted, answers, own: None }
    }

    /// A request to commit new entries of the embedder's own.
    pub(super) fn of_own_entries(ticket: Ticket, since: u64) -> Self {
        Self { ticket, since, wanted: Vec::new(), answers: Vec::new(), own: Some(Ok(())) }
    }

    /// Gets routes of published messages, up to the first that is missing: this one must get room before
    /// later ones. Returns whether the request needs no commit any more.
    pub(super) fn get_all(&mut self, routes: &mut Routes) -> bool {
        self.own.is_none()
            && self.unanswered().all(|(wanted, answer)| match routes.get(wanted.key) {
                Some(gsi) => {
                    *answer = Ok(wanted.route(gsi));
                    true
                }
                None => false,
            })
    }

    /// Gets routes of published messages, and adds the missing ones to the next commit.
    pub(super) fn get_or_add(&mut self, routes: &mut Routes) {
        for (wanted, answer) in self.unanswered() {
            match routes.get(wanted.key) {
                Some(gsi) => *answer = Ok(wanted.route(gsi)),
                None => routes.add(wanted.key),
            }
        }
    }

    /// Gets routes of the messages that have just been committed.
    pub(super) fn acquire(&mut self, routes: &mut Routes) {
        for (wanted, answer) in self.unanswered() {
            if let Some(gsi) = routes.acquire(wanted.key) {
                *answer = Ok(wanted.route(gsi));
            }
        }
    }

    /// The hypervisor has refused the messages of these keys, in a table of `entries` entries.
    pub(super) fn refuse(&mut self, keys: &HashSet<Interrupt>, entries: usize, source: &io::Error) {
        for (_, answer) in self.unanswered().filter(|(wanted, _)| keys.contains(&wanted.key)) {
            *answer = Err(refused(entries, source));
        }
    }

    /// The hypervisor has refused other entries of the embedder's own, in a table of `entries` entries.
    pub(super) fn refuse_own_entries(&mut self, entries: usize, source: &io::Error) {
        if let Some(answer) = &mut self.own {
            *answer = Err(refused(entries, source));
        }
    }

    fn unanswered(&mut self) -> impl Iterator<Item = (&Wanted, &mut Result<Route, RouterError>)> {
        self.wanted.iter().zip(&mut self.answers).filter(|(_, answer)| answer.is_err())
    }
}

/// A copy of the error, for each message of the refused table.
fn refused(entries: usize, source: &io::Error) -> RouterError {
    let source = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
    RouterError::Commit { routes: entries, source }
}
