//! Irqfds that the kernel ends by itself because their eventfds were closed, and the routes that they may still need.
//!
//! The kernel does so later, in the same queue of work for which each KVM_IRQFD deassign waits (Linux
//! virt/kvm/eventfd.c, `irqfd_cleanup_wq`). Invariant: a route leaves here only after a detach that began when the
//! eventfds were closed already. Locking: a lock of its own, innermost, held for no call.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::router::Route;

/// Routes whose eventfds are closed, of which an interrupt may still be on its way.
#[derive(Debug, Default)]
pub(super) struct DeferredRoutes(Mutex<Vec<Route>>);

impl DeferredRoutes {
    /// The eventfds of these are closed.
    pub(super) fn add(&self, routes: Vec<Route>) {
        self.routes().extend(routes);
    }

    /// Detaches something: the routes that nothing needs any more then. Where it is refused nobody has waited, and they
    /// stay until the next one.
    pub(super) fn detach<E>(&self, detach: impl FnOnce() -> Result<(), E>) -> Result<Vec<Route>, E> {
        // Those that come meanwhile may be too late for this one.
        let before = mem::take(&mut *self.routes());
        match detach() {
            Ok(()) => Ok(before),
            Err(error) => {
                self.routes().extend(before);
                Err(error)
            }
        }
    }

    fn routes(&self) -> MutexGuard<'_, Vec<Route>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
