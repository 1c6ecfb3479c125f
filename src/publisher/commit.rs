//! One commit: from the moment at which its leader takes the table until the requests that it serves have
//! answers.
//!
//! Owns the table meanwhile. Invariant: however the commit ends (success, refusal or a panic of the
//! hypervisor), dropping it answers each request and returns the table. Locking: only `drop` takes the
//! publisher's lock. The hypervisor works without it.

use std::io;
use std::mem;
use std::sync::Condvar;

use super::request::Request;
use super::routes::PendingRoute;
use super::shared::Shared;
use super::table::{Hypervisor, Table};
use crate::counter::Increment;
use crate::lock::Mutex;

pub(super) struct Commit<'a, H: Hypervisor> {
    shared: &'a Mutex<Shared<H>>,
    ended: &'a Condvar,
    table: Option<Table<H>>,
    pending: Vec<PendingRoute>,
    /// The embedder's own entries of the last table, while new ones are tried.
    own_before: Option<Vec<H::Entry>>,
    served: Vec<Request>,
    result: io::Result<()>,
}

impl<'a, H: Hypervisor> Commit<'a, H> {
    pub(super) fn new(
        shared: &'a Mutex<Shared<H>>,
        ended: &'a Condvar,
        table: Table<H>,
        pending: Vec<PendingRoute>,
        served: Vec<Request>,
    ) -> Self {
        // The result if the hypervisor panics.
        let result = Err(io::ErrorKind::Other.into());
        Self { shared, ended, table: Some(table), pending, own_before: None, served, result }
    }

    /// Commits the pending routes, and the embedder's own entries if they have changed.
    ///
    /// If the hypervisor refuses both together, the messages are tried again with the old own entries. An
    /// embedder's mistake must not hold back a guest's interrupts.
    pub(super) fn run(mut self, own: Option<Vec<H::Entry>>) {
        let Self { table: Some(table), pending, own_before, result, .. } = &mut self else { return };
        table.put(pending);
        *own_before = own.map(|entries| table.set_own(entries));
        *result = table.commit(pending);
        if result.is_ok() {
            *own_before = None;
        } else if own_before.is_some() {
            self.restore_own_entries();
            let Self { table: Some(table), pending, result, .. } = &mut self else { return };
            if !pending.is_empty() {
                *result = table.commit(pending);
            }
        }
    }

    /// Puts the old own entries back if the hypervisor has refused the new ones.
    fn restore_own_entries(&mut self) {
        let Self { table: Some(table), own_before, served, result: Err(source), .. } = self else { return };
        let Some(before) = own_before.take() else { return };
        let entries = table.len();
        served.iter_mut().for_each(|request| request.refuse_own_entries(entries, source));
        drop(table.set_own(before));
    }
}

impl<H: Hypervisor> Drop for Commit<'_, H> {
    fn drop(&mut self) {
        self.restore_own_entries();
        let Self { shared, ended, table: Some(table), pending, served, result, .. } = self else { return };
        let shared: &mut Shared<H> = &mut shared.lock();
        shared.ended.increment();
        match result {
            Ok(()) => {
                shared.routes.confirm(pending);
                served.iter_mut().for_each(|request| request.acquire(&mut shared.routes));
            }
            Err(source) => {
                let (refused, entries) = (pending.iter().map(|pending| pending.key).collect(), table.len());
                served.iter_mut().for_each(|request| request.refuse(&refused, entries, source));
                shared.routes.take_back(pending);
                table.take_back(pending, shared.routes.len());
            }
        }
        shared.answer(mem::take(served));
        // The commit may have prefetched every message of another request.
        let Shared { waiting, routes, .. } = shared;
        let found: Vec<_> = waiting.extract_if(.., |request| request.get_all(routes)).collect();
        shared.answer(found);
        shared.table = self.table.take();
        if shared.others_wait() {
            ended.notify_all();
        }
    }
}
