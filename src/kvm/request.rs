//! Messages that somebody misses, and what there is of them by now.
//!
//! Invariant: a message without a route says that there is no room for it, until it has a route or another reason is known.
//! Locking: none of its own; see `publisher.rs`.

use std::collections::HashSet;
use std::io;

use super::routes::Routes;
use crate::interrupt::Interrupt;
use crate::router::{Route, RouterError};

/// One for each message, in order.
pub(super) type Answers = Vec<Result<Route, RouterError>>;

/// Who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Ticket {
    /// One that nobody has who still waits.
    pub(super) fn next(&mut self) -> Self {
        self.0 = self.0.wrapping_add(1);
        *self
    }
}

/// What one caller asked for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ticket: Ticket,
    /// So many commits had ended before.
    pub(super) since: u64,
    messages: Vec<Interrupt>,
    pub(super) answers: Answers,
}

impl Request {
    pub(super) fn new(ticket: Ticket, since: u64, messages: &[Interrupt], capacity: usize) -> Self {
        let no_room = |message: &Interrupt| Err(RouterError::NoRoom { message: *message, routes: capacity });
        Self { ticket, since, messages: messages.to_vec(), answers: messages.iter().map(no_room).collect() }
    }

    /// Takes what is published, up to the first that is not: who comes first has the first claim to room. True where that
    /// is all.
    pub(super) fn find(&mut self, routes: &mut Routes) -> bool {
        self.unanswered().all(|(message, answer)| match routes.find(message) {
            Some(route) => {
                *answer = Ok(route);
                true
            }
            None => false,
        })
    }

    /// Takes what is published, and places the rest.
    pub(super) fn find_or_place(&mut self, routes: &mut Routes) {
        for (message, answer) in self.unanswered() {
            match routes.find(message) {
                Some(route) => *answer = Ok(route),
                None => routes.place(message),
            }
        }
    }

    /// Takes what was placed, now that the kernel has it.
    pub(super) fn acquire(&mut self, routes: &mut Routes) {
        for (message, answer) in self.unanswered() {
            if let Some(route) = routes.acquire(message) {
                *answer = Ok(route);
            }
        }
    }

    /// The kernel has refused these messages, in a table of so many entries.
    pub(super) fn refuse(&mut self, messages: &HashSet<Interrupt>, entries: usize, source: &io::Error) {
        for (_, answer) in self.unanswered().filter(|(message, _)| messages.contains(message)) {
            *answer = Err(RouterError::Commit { routes: entries, source: same(source) });
        }
    }

    fn unanswered(&mut self) -> impl Iterator<Item = (Interrupt, &mut Result<Route, RouterError>)> {
        self.messages.iter().copied().zip(&mut self.answers).filter(|(_, answer)| answer.is_err())
    }
}

/// The same error once more, for each vector that it befell.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
