//! Routes that are published before functions resume, so that each function resumes without a commit.
//!
//! Invariant: every published route is held until the guard is dropped. No lock.

use super::Resume;
use crate::router::{Route, Router};

/// Holds the routes of functions that are about to resume. See [`prepare`].
///
/// Drop it after the last of them has resumed. Until then, the messages of these functions cannot be evicted.
#[must_use = "routes that are not held may be evicted before their function resumes"]
#[derive(Debug)]
pub struct Prepared<'router, R: Router + ?Sized> {
    router: &'router R,
    routes: Vec<Route>,
    refused: usize,
}

impl<R: Router + ?Sized> Prepared<'_, R> {
    /// How many messages have a route. Equal messages count once for each vector.
    pub fn published(&self) -> usize {
        self.routes.len()
    }

    /// How many messages the router refused. Each function publishes its refused messages again when it
    /// resumes.
    pub fn refused(&self) -> usize {
        self.refused
    }
}

/// Publishes the messages of suspended functions of one VM with one commit of its routing table.
///
/// The embedder then [resumes](Resume::resume) the functions in any order, each without a commit of its own,
/// and drops the guard.
///
/// Interrupts meanwhile: they wait until their function resumes.
pub fn prepare<'router, 'function, R: Router + ?Sized>(
    router: &'router R,
    functions: impl IntoIterator<Item = &'function dyn Resume>,
) -> Prepared<'router, R> {
    let mut messages = Vec::new();
    functions.into_iter().for_each(|function| function.messages(&mut messages));
    let mut answers = Vec::new();
    router.get_or_publish(&messages, &mut answers);
    let requested = answers.len();
    let routes: Vec<Route> = answers.into_iter().flatten().collect();
    let refused = requested.saturating_sub(routes.len());
    Prepared { router, routes, refused }
}

impl<R: Router + ?Sized> Drop for Prepared<'_, R> {
    fn drop(&mut self) {
        self.routes.drain(..).for_each(|route| self.router.put(route));
    }
}
