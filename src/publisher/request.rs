//! What callers ask for while it is missing, and the answers that they have by now.
//!
//! Owns the messages of one caller and an answer for each. Invariant: a message without a route has the answer that there is no room
//! for it, until it has a route or another reason is known. Locking: none of its own; see `mod.rs`.

use std::collections::HashSet;
use std::io;

use super::routes::Routes;
use crate::interrupt::Interrupt;
use crate::router::{Gsi, Route, RouterError};

/// One for each message, in order.
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

/// A message as the caller wants it, and as the table knows it.
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

/// What one caller asks for: routes, or other entries of the embedder's own.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ticket: Ticket,
    /// How many commits had ended before.
    pub(super) since: u64,
    wanted: Vec<Wanted>,
    pub(super) answers: Answers,
    /// What became of the embedder's own entries, where the request is for these.
    pub(super) own: Option<Result<(), RouterError>>,
}

impl Request {
    /// For the routes of messages, each with its key, in a table with room for `capacity` messages.
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

    /// For a commit of other entries of the embedder's own.
    pub(super) fn of_own_entries(ticket: Ticket, since: u64) -> Self {
        Self { ticket, since, wanted: Vec::new(), answers: Vec::new(), own: Some(Ok(())) }
    }

    /// Takes what is published, up to the first message that is not: that one has the first claim to room. True if the request needs
    /// no commit any more.
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

    /// Takes what is published, and places the rest.
    pub(super) fn get_or_place(&mut self, routes: &mut Routes) {
        for (wanted, answer) in self.unanswered() {
            match routes.get(wanted.key) {
                Some(gsi) => *answer = Ok(wanted.route(gsi)),
                None => routes.place(wanted.key),
            }
        }
    }

    /// Takes what was placed, now that it is in force.
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

/// The same error once more, for each message of the refused table.
fn refused(entries: usize, source: &io::Error) -> RouterError {
    let source = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
    RouterError::Commit { routes: entries, source }
}
