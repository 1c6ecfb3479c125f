//! A router with a remapping stage in front, for one function.
//!
//! The stage translates the function's message, and then the VM's router says whether the result is an
//! interrupt. Everything else goes to the VM's router directly, so eventfds attach as without remapping. No
//! lock.

use std::fmt;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::Stage;
use crate::backend::Capabilities;
use crate::interrupt::{Interrupt, RequesterId, Target};
use crate::message::MsiMessage;
use crate::refusal::Refusal;
use crate::router::{Route, Router, RouterError, Signalled, Unclosed};

/// The router of one function behind a remapping stage. It is itself a router, so several stages can be
/// chained.
///
/// An embedder that remaps other messages (of an IOAPIC, for example) calls [`translate`](Router::translate)
/// for them.
pub struct Remapped {
    router: Arc<dyn Router>,
    stage: Arc<dyn Stage>,
    requester: RequesterId,
}

impl Remapped {
    /// The messages of `requester` go through `stage` to `router`.
    pub fn new(router: Arc<dyn Router>, stage: Arc<dyn Stage>, requester: RequesterId) -> Self {
        Self { router, stage, requester }
    }
}

impl fmt::Debug for Remapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remapped").field("requester", &self.requester).finish_non_exhaustive()
    }
}

impl Router for Remapped {
    fn translate(&self, message: MsiMessage) -> Result<Target, Refusal> {
        let Self { requester, .. } = *self;
        let fault = |fault| Refusal::Fault { requester, message, fault };
        self.router.translate(self.stage.translate(requester, message).map_err(fault)?)
    }

    fn capabilities(&self) -> Capabilities {
        self.router.capabilities().intersection(self.stage.capabilities(self.requester))
    }

    fn get(&self, message: Interrupt) -> Option<Route> {
        self.router.get(message)
    }

    fn get_or_publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        self.router.get_or_publish(messages, routes);
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        self.router.attach(eventfd, route)
    }

    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        self.router.detach(eventfd, route)
    }

    fn put(&self, route: Route) {
        self.router.put(route);
    }

    fn close(&self, attached: Vec<(EventFd, Route)>) -> Vec<Unclosed> {
        self.router.close(attached)
    }

    fn write_memory(&self, message: MsiMessage) {
        self.router.write_memory(message);
    }

    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError> {
        self.router.signal(message)
    }
}
