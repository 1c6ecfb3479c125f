//! Routes that closed eventfds may still need.
//!
//! The kernel detaches an irqfd by itself when its eventfd is closed for the last time. It does so later, in the queue of work for
//! which each KVM_IRQFD deassign waits (Linux virt/kvm/eventfd.c, `irqfd_cleanup_wq`). Invariant: a route leaves here only after
//! a detach that began when its eventfd was closed already. Locking: an innermost lock, held for no call, and not taken by a detach that
//! sees no routes.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lock::Mutex;
use crate::router::Route;

/// Routes whose eventfds are closed, of which an interrupt may still be on its way.
#[derive(Debug, Default)]
pub(super) struct DeferredRoutes {
    routes: Mutex<Vec<Route>>,
    /// How many there are. Written under the lock. A detach that reads an older number leaves routes to the next detach.
    count: AtomicUsize,
}

impl DeferredRoutes {
    /// Adds routes whose eventfds are closed.
    pub(super) fn add(&self, routes: Vec<Route>) {
        let mut all = self.routes.lock();
        all.extend(routes);
        self.count.store(all.len(), Ordering::Release);
    }

    /// Detaches an eventfd, and answers the routes that nothing needs any more then. If the detach is refused it has not waited, and
    /// the routes stay until the next one.
    pub(super) fn detach<E>(&self, detach: impl FnOnce() -> Result<(), E>) -> Result<Vec<Route>, E> {
        // Routes that come while the detach is under way may be too late for it.
        let before = if self.count.load(Ordering::Acquire) == 0 { Vec::new() } else { self.take() };
        match detach() {
            Ok(()) => Ok(before),
            Err(error) => {
                self.add(before);
                Err(error)
            }
        }
    }

    #[cold]
    fn take(&self) -> Vec<Route> {
        let mut all = self.routes.lock();
        self.count.store(0, Ordering::Release);
        mem::take(&mut *all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::Interrupt;
    use crate::message::MsiMessage;
    use crate::router::Gsi;

    fn route(gsi: u32) -> Route {
        let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
        Route::new(Gsi(gsi), Interrupt::new(message))
    }

    fn gsis(routes: Result<Vec<Route>, ()>) -> Result<Vec<u32>, ()> {
        routes.map(|routes| routes.iter().map(|route| route.gsi().0).collect())
    }

    #[test]
    fn routes_are_kept_until_a_detach_that_began_after_their_eventfds_were_closed() {
        let deferred = DeferredRoutes::default();
        deferred.add(vec![route(24), route(25)]);
        assert_eq!(gsis(deferred.detach(|| Err(()))), Err(()));
        let meanwhile = || {
            deferred.add(vec![route(26)]);
            Ok(())
        };
        assert_eq!(gsis(deferred.detach(meanwhile)), Ok(vec![24, 25]));
        assert_eq!(gsis(deferred.detach(|| Ok(()))), Ok(vec![26]));
        assert_eq!(gsis(deferred.detach(|| Ok(()))), Ok(vec![]));
    }
}
