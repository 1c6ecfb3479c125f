//! Binding off the guest's path: host vectors that an embedder's thread requests.
//!
//! How long it takes to request a host vector is up to the host, and it may be long. Until a vector has one, its interrupts wait
//! in the device, because the host keeps the entry masked. So nothing is lost when the guest's write does not wait for the host.
//! A vector that has a host vector is never deferred: the guest's write itself attaches, holds or moves it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use super::{BATCH, Host};
use crate::delivery::Store;
use crate::domain::slot::Slot;
use crate::router::Router;

/// Wakes the thread that [binds](Host::bind_deferred) when it is dropped. Drop it once the domain's lock is released: the thread
/// would only wait for the lock, on the CPU of the guest's own access. The eventfd may be signalled slightly after work is queued,
/// and one spurious wake-up is possible. A panic on the way wakes the thread too.
#[derive(Default)]
#[must_use]
pub(in crate::domain) struct Notice(Option<Arc<OwnedFd>>);

impl Drop for Notice {
    fn drop(&mut self) {
        if let Some(deferred_bind) = &self.0 {
            // It fails only where the eventfd is full, and then it is readable already.
            let _ = write(deferred_bind, &1u64.to_ne_bytes());
        }
    }
}

impl Host {
    /// An eventfd that is readable while vectors wait for [`Host::bind_deferred`]. From the first call on, they do.
    pub(in crate::domain) fn deferred_bind_fd(&mut self) -> io::Result<Arc<OwnedFd>> {
        match &self.deferred_bind {
            Some(deferred_bind) => Ok(deferred_bind.clone()),
            None => {
                let deferred_bind = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
                Ok(self.deferred_bind.insert(Arc::new(deferred_bind)).clone())
            }
        }
    }

    /// Leaves those vectors that are to be attached and have no host vector to [`Host::bind_deferred`], if an embedder calls that.
    /// MSI's vectors are not deferred: a device without mask bits cannot wait.
    pub(super) fn defer(&mut self) -> Notice {
        let Some(deferred_bind) = &self.deferred_bind else { return Notice::default() };
        let is_ready = self.owed.work().iter().any(|work| work.target.is_some());
        if !is_ready || !self.backend.capabilities().independent {
            return Notice::default();
        }
        let had_none = self.owed.deferred() == 0;
        let slots = &self.slots;
        self.owed.defer(|vector| matches!(slots.get(vector), None | Some(Slot::Idle { .. })));
        Notice((had_none && self.owed.deferred() > 0).then(|| deferred_bind.clone()))
    }

    /// Binds and attaches some of the deferred vectors, as the store has them now; true where others wait.
    pub(in crate::domain) fn bind_deferred(&mut self, router: &dyn Router, store: &dyn Store) -> bool {
        let next = self.owed.first_deferred(BATCH);
        let others_wait = self.owed.deferred() > next.len();
        if let Some(deferred_bind) = self.deferred_bind.as_deref().filter(|_| !others_wait) {
            // It fails where nobody has signalled it (yet).
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
