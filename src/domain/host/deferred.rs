//! Binding off the guest's path: host vectors that an embedder's thread requests.
//!
//! Requesting a host vector may take long. Until a vector has one, the host keeps its table entry masked, and its interrupts wait in
//! the device. The guest's write therefore need not wait for the host, and nothing is lost. A vector that has a host vector is never
//! deferred: the guest's write itself attaches, holds or retargets it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::read;

use super::notice::Notice;
use super::{BATCH, Host};
use crate::delivery::Store;
use crate::domain::slot::Slot;
use crate::router::Router;

impl Host {
    /// An eventfd that is readable while vectors wait for [`Host::bind_deferred`]. From the first call on, vectors are deferred.
    pub(in crate::domain) fn deferred_bind_fd(&mut self) -> io::Result<Arc<OwnedFd>> {
        match &self.deferred_bind {
            Some(deferred_bind) => Ok(deferred_bind.clone()),
            None => {
                let deferred_bind = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
                Ok(self.deferred_bind.insert(Arc::new(deferred_bind)).clone())
            }
        }
    }

    /// Defers the vectors that are to be attached and have no host vector, if an embedder calls [`Host::bind_deferred`]. MSI's vectors
    /// are not deferred: a device without mask bits cannot make its interrupts wait.
    pub(super) fn defer(&mut self) -> Notice {
        let Some(deferred_bind) = &self.deferred_bind else { return Notice::default() };
        let is_ready = self.owed.work().iter().any(|work| work.target.is_some());
        if !is_ready || !self.backend.capabilities().independent {
            return Notice::default();
        }
        let had_none = self.owed.deferred() == 0;
        let slots = &self.slots;
        self.owed.defer(|vector| matches!(slots.get(vector), None | Some(Slot::Idle { .. })));
        Notice::new((had_none && self.owed.deferred() > 0).then(|| deferred_bind.clone()))
    }

    /// Brings at most [`BATCH`] deferred vectors to what the store says now; true if others are left.
    pub(in crate::domain) fn bind_deferred(&mut self, router: &dyn Router, store: &dyn Store) -> bool {
        let next = self.owed.first_deferred(BATCH);
        let others_wait = self.owed.deferred() > next.len();
        if let Some(deferred_bind) = self.deferred_bind.as_deref().filter(|_| !others_wait) {
            // It fails if the eventfd is not signalled (yet).
            let _ = read(deferred_bind, &mut [0; 8]);
        }
        if !next.is_empty() {
            self.sync_vectors(router, store, next.into_iter());
        }
        others_wait
    }

    /// How many vectors wait for [`Host::bind_deferred`].
    pub(in crate::domain) fn deferred(&self) -> usize {
        self.owed.deferred()
    }
}
