//! What a function has threads of an embedder's do, as subscribers of its `event-manager`s.
//!
//! Each owns a descriptor that is ready while there is something to do, and takes the domain's lock for a bounded number of
//! vectors. Two threads: the one that requests host vectors waits for the host; the one that delivers what userspace must
//! never commits a routing table, detaches an irqfd or requests a host vector, and waits for who does only as long as that
//! one has the domain's lock.
//!
//! Where the host refuses to have a descriptor watched (it limits what a user's epolls watch), a subscriber has nobody to
//! tell. An embedder that cannot rule that out calls [`Function::deliver`] and [`Function::grow`] now and then besides: they
//! are cheap where there is nothing to do.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, EventSubscriber, Events};

use crate::domain::DeviceDomain;
use crate::function::Function;
use crate::registers::Registers;

/// Delivers a function's interrupts from userspace where the kernel cannot.
#[derive(Debug)]
pub struct RelaySubscriber<C: Registers> {
    function: Arc<Function<C, DeviceDomain>>,
    descriptor: Arc<OwnedFd>,
}

impl<C: Registers> RelaySubscriber<C> {
    /// From now on the function's vectors are delivered from userspace where need be; add this to an event
    /// manager at once.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new(function: Arc<Function<C, DeviceDomain>>) -> io::Result<Self> {
        let descriptor = function.relay()?;
        Ok(Self { function, descriptor })
    }
}

impl<C: Registers> EventSubscriber for RelaySubscriber<C> {
    fn process(&self, _events: Events, _ops: &mut EventOps) {
        self.function.deliver();
    }

    fn init(&self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&*self.descriptor, EventSet::IN));
    }
}

/// Requests host vectors for what the guest has begun to use, so that its writes need not wait for the host. See
/// [`DeviceDomain::growth`].
#[derive(Debug)]
pub struct GrowthSubscriber<C: Registers> {
    function: Arc<Function<C, DeviceDomain>>,
    descriptor: Arc<OwnedFd>,
}

impl<C: Registers> GrowthSubscriber<C> {
    /// From now on vectors that have no host vector yet wait for this: add it to an event manager at once, of a thread that
    /// may wait for the host. Where vCPUs have no CPUs of their own, one that takes none from them by waking up
    /// (`SCHED_BATCH`): the guest is not done yet when it is woken.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new(function: Arc<Function<C, DeviceDomain>>) -> io::Result<Self> {
        let descriptor = function.growth()?;
        Ok(Self { function, descriptor })
    }
}

impl<C: Registers> EventSubscriber for GrowthSubscriber<C> {
    fn process(&self, _events: Events, _ops: &mut EventOps) {
        self.function.grow();
    }

    fn init(&self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&*self.descriptor, EventSet::IN));
    }
}
