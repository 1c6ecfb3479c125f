//! A function's interrupts that userspace must deliver, as a subscriber of an embedder's `event-manager`.
//!
//! Owns a descriptor that is ready while vectors without a route have something to deliver. Runs on the event
//! manager's thread, which takes the domain's lock for a bounded number of deliveries and never commits a
//! routing table nor detaches an irqfd.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, EventSubscriber, Events};

use crate::backend::Backend;
use crate::domain::DeviceDomain;
use crate::function::Function;
use crate::registers::Registers;
use crate::router::Router;

/// Delivers a function's interrupts from userspace where the kernel cannot.
#[derive(Debug)]
pub struct RelaySubscriber<C: Registers, R: Router, B: Backend> {
    function: Arc<Function<C, DeviceDomain<R, B>>>,
    descriptor: Arc<OwnedFd>,
}

impl<C: Registers, R: Router, B: Backend> RelaySubscriber<C, R, B> {
    /// From now on the function's vectors are delivered from userspace where need be; add this to an event
    /// manager at once.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new(function: Arc<Function<C, DeviceDomain<R, B>>>) -> io::Result<Self> {
        let descriptor = function.relay()?;
        Ok(Self { function, descriptor })
    }
}

impl<C: Registers, R: Router, B: Backend> EventSubscriber for RelaySubscriber<C, R, B> {
    fn process(&self, _events: Events, _ops: &mut EventOps) {
        self.function.deliver();
    }

    fn init(&self, ops: &mut EventOps) {
        // An event manager refuses only a descriptor that it watches already.
        let _ = ops.add(Events::new(&*self.descriptor, EventSet::IN));
    }
}
