//! Routes that closed eventfds may still need.
//!
//! When an eventfd is closed for the last time, the kernel detaches its irqfd later, on a workqueue. Each
//! KVM_IRQFD deassign flushes this workqueue (Linux virt/kvm/eventfd.c, `irqfd_cleanup_wq`). Invariant: a
//! route is released only after a detach that began when its eventfd was already closed. Locking: an
//! innermost lock. No call is made under it, and a detach that finds no routes does not take it.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lock::Mutex;
use crate::router::Route;

/// Routes whose eventfds are closed. An interrupt may still be injected on them.
#[derive(Debug, Default)]
pub(super) struct DeferredRoutes {
    routes: Mutex<Vec<Route>>,
    /// The number of routes, written under the lock. A detach that reads a stale number leaves routes to the
    /// next detach.
    count: AtomicUsize,
}

impl DeferredRoutes {
    /// Adds routes whose eventfds are closed.
    pub(super) fn add(&self, routes: Vec<Route>) {
        let mut all = self.routes.lock();
        all.extend(routes);
        self.count.store(all.len(), Ordering::Release);
    }

    /// Detaches an eventfd with `detach`, and returns the routes that are no longer needed. If the detach is
    /// refused, it has not flushed the workqueue, and the routes stay until the next one.
    pub(super) fn detach<E>(&self, detach: impl FnOnce() -> Result<(), E>) -> Result<Vec<Route>, E> {
        // The detach may not cover routes that are added while it is under way.
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
