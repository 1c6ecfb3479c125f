//! A router with a hook before each call of a domain.

use std::sync::atomic::{AtomicUsize, Ordering};

use vm_msi::Interrupt;
use vm_msi::router::{Route, Router, RouterError, Signalled, Unclosed};
use vm_msi::testing::{Failures, FakeRouter};
use vmm_sys_util::eventfd::EventFd;

/// A call that the router makes to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostCall {
    Publish,
    Attach,
    Detach,
    /// The number of eventfds that are closed.
    Close(usize),
}

type Hook = Box<dyn Fn(HostCall) + Send + Sync>;

/// Calls its hook before each host call.
pub(crate) struct HookedRouter {
    pub(crate) router: FakeRouter,
    hook: Hook,
    detached: AtomicUsize,
}

impl HookedRouter {
    pub(crate) fn new(hook: impl Fn(HostCall) + Send + Sync + 'static) -> Self {
        let router = FakeRouter::new(Failures::default());
        Self { router, hook: Box::new(hook), detached: AtomicUsize::new(0) }
    }

    /// The number of detaches that have returned.
    pub(crate) fn detached(&self) -> usize {
        self.detached.load(Ordering::SeqCst)
    }
}

impl Router for HookedRouter {
    fn get(&self, interrupt: Interrupt) -> Option<Route> {
        self.router.get(interrupt)
    }

    fn get_or_publish(&self, interrupts: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        (self.hook)(HostCall::Publish);
        self.router.get_or_publish(interrupts, routes);
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        (self.hook)(HostCall::Attach);
        self.router.attach(eventfd, route)
    }

    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        (self.hook)(HostCall::Detach);
        let detached = self.router.detach(eventfd, route);
        self.detached.fetch_add(1, Ordering::SeqCst);
        detached
    }

    fn put(&self, route: Route) {
        self.router.put(route);
    }

    fn close(&self, attached: Vec<(EventFd, Route)>) -> Vec<Unclosed> {
        (self.hook)(HostCall::Close(attached.len()));
        self.router.close(attached)
    }

    fn signal(&self, interrupt: Interrupt) -> Result<Signalled, RouterError> {
        self.router.signal(interrupt)
    }
}
