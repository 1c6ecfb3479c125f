//! A device's interrupt domain: brings each vector in the host to what its store says it should be.
//!
//! Owns the device's host vectors: their eventfds, their routes, and the interrupts that wait for them. Everything is one
//! operation, [`Domain::sync`]: enable, mask, grow, shrink, retarget, reset and restore differ only in what the store says, and it
//! may be called twice.
//!
//! Invariant: between calls each vector is in one of the states of `slot.rs`, and each vector that is not what its store says is
//! in `owed.rs`, with the host's reason. A panic in a backend, router or stage forgets no vector: the next call works on what it
//! has left. A call that panics is taken not to have happened.
//!
//! Locking: one fair lock a domain (`fair.rs`), taken before the router's and the store's. Hardly any guest access that changes
//! nothing in the host takes it. A read of the PBA does, because pending bits belong to the domain (PCIe r6 §7.7.2.7).

mod bus_master;
mod error;
mod fair;
mod host;
mod may_deliver;
mod owed;
mod report;
mod slot;
mod slots;
mod software;

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;

pub use bus_master::BusMaster;
pub use error::{Cause, DomainError};
pub use host::FailureHook;
pub use report::{Counters, DomainReport, State, VectorReport};
pub use software::{SoftwareCounters, SoftwareDomain};

use crate::backend::Backend;
use crate::budget::DeviceBudget;
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::interrupt::{Interrupt, Target};
use crate::router::Router;
use crate::sealed::Sealed;
use crate::state::{PendingBits, SuspendError};
use fair::{FairGuard, FairMutex};
use host::{BATCH, Host, WindowHooks};
use may_deliver::MayDeliver;

/// What a capability's registers need of the domain behind them.
pub trait Domain: Sealed {
    /// Brings the touched vectors to what `store` says now. The store is read under the domain's lock, so the
    /// last of several concurrent calls leaves the host as the last write left the store.
    ///
    /// Interrupts meanwhile: those of a vector on its way down wait, and a vector on its way up delivers one
    /// for all that waited, at once or when an embedder's thread has [grown](DeviceDomain::bind_deferred) it. When this returns, no
    /// touched vector delivers on an old message or while masked,
    /// whatever else the host refused (see [`Domain::failed_steps`]). A vector that the host refuses to detach is the
    /// exception: it stays as it was, is failed_steps, and is tried again.
    fn sync(&self, store: &dyn Store, touched: Touched);

    /// Tries again what the host refused. Cheap where it refused nothing; call it now and then while
    /// [`Domain::failed_steps`] is not 0.
    fn retry(&self, store: &dyn Store);

    /// How many vectors are not what they should be because the host refused a step.
    fn failed_steps(&self) -> usize;

    /// The first of `vectors` that may be delivering at this moment. Takes no lock. A guest's access that shows a vector as masked
    /// asks this, after it has looked at the registers, and [syncs](Domain::sync) the vector where it is named: then another
    /// vCPU's access, which masked it, is not yet done with the host.
    fn may_deliver(&self, vectors: Range<u32>) -> Option<Vector>;

    /// The pending bits of vectors 64 × `group` to 64 × `group` + 63, lowest vector in the lowest bit. Reading
    /// takes nothing.
    fn pending(&self, group: u32) -> u64;

    /// Forgets the interrupts that wait here: the device was reset, after a sync that took its vectors down.
    fn clear_pending(&self);

    /// The bus lets the function send messages, as at first, or keeps it from it. While it does, every vector's
    /// interrupts wait, whatever the store says; when it lets it again, each vector is brought to what `store` says. Cheap
    /// where nothing changes. A reset of the domain's function leaves it as it is: the Command register is not here.
    ///
    /// Interrupts meanwhile: none is delivered once this has returned, but those of a vector that the host refuses to
    /// detach, as in [`Domain::sync`].
    fn set_bus_master(&self, store: &dyn Store, bus_master: BusMaster);

    /// Lets the interrupts of every vector wait, whatever the store says, until [`Domain::resume`]; and tells for
    /// which vectors some wait here. Telling takes nothing. It may be called again.
    ///
    /// # Errors
    /// The host refuses to let a vector's interrupts wait; the domain goes on as before.
    fn suspend(&self, store: &dyn Store) -> Result<PendingBits, SuspendError>;

    /// From now on interrupts wait for exactly these vectors: the store is one that was restored. The domain is
    /// suspended.
    fn set_pending(&self, pending: &PendingBits);

    /// Adds the messages for which [`Domain::resume`] will ask the router.
    fn messages(&self, store: &dyn Store, messages: &mut Vec<Interrupt>);

    /// Brings every vector to what `store` says, if the domain is suspended.
    fn resume(&self, store: &dyn Store);
}

/// How many batches one call binds.
const BATCHES: u32 = 16;

/// What [`DeviceDomain::latch`] did with a mediator's interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the device has to signal a vector that has a host vector"]
pub enum Latched {
    /// The interrupt waits in the domain: the vector has no host vector that the device could signal.
    Waits,
    /// Nothing was done: the vector has a host vector, and the device signals it.
    HasHostVector,
    /// Nothing was done: the function has no such vector.
    NoSuchVector,
}

/// One device's vectors of one store, whose interrupts come through eventfds.
pub struct DeviceDomain {
    router: Arc<dyn Router>,
    host: FairMutex<Host>,
    may_deliver: Arc<MayDeliver>,
}

impl DeviceDomain {
    /// A domain of up to `vectors` vectors, none of which costs the host anything yet.
    pub fn new(vectors: u32, router: Arc<dyn Router>, backend: Box<dyn Backend>) -> Self {
        let may_deliver = Arc::new(MayDeliver::new(vectors));
        Self { router, host: FairMutex::new(Host::new(vectors, backend, may_deliver.clone())), may_deliver }
    }

    /// The same domain with a budget, which other domains of the device may share. Without one, its limit is `vectors`, and
    /// at most [`DeviceBudget::DEFAULT_LIMIT`].
    pub fn with_budget(mut self, budget: Arc<DeviceBudget>) -> Self {
        self.host.get_mut().budget = budget;
        self
    }

    /// As [`Domain::retry`], and gives back what has lingered; for an embedder with a clock of its own.
    pub fn retry_at(&self, store: &dyn Store, now: Instant) {
        self.release_expired(now);
        // In a statement of its own, after the lock.
        let notice = {
            let mut host = self.host.lock_in_turn();
            host.set_maintained();
            host.retry(&*self.router, store)
        };
        drop(notice);
    }

    fn release_expired(&self, now: Instant) {
        // No more often than there are vectors that linger now, as the guest may go on to free some.
        for _ in 0..self.expiring().div_ceil(BATCH) {
            if !self.host.lock_in_turn().release_expired(now) {
                break;
            }
        }
    }

    /// Everything that is not on a guest's path, in one call: delivers what waits for relayed vectors, binds deferred vectors,
    /// releases freed vectors whose delay is over, and tries again what the host refused. A refused step is tried 100 ms after
    /// the call that has first seen it. Answers how long it may be until the next call, if no descriptor becomes readable before
    /// ([`DeviceDomain::maintenance_fd`], [`DeviceDomain::relay_fd`], [`DeviceDomain::deferred_bind_fd`]); `None` where nothing is owed.
    ///
    /// [`Maintenance`](crate::Maintenance) has the descriptors and the clock in one. An embedder without it calls this when one
    /// of them is readable and when the time is over.
    ///
    /// Interrupts meanwhile: none is lost. Where a function has refused steps and is never maintained nor retried, it logs that.
    pub fn maintain(&self, store: &dyn Store, now: Instant) -> Option<Duration> {
        self.deliver_relayed();
        self.bind_deferred(store);
        self.release_expired(now);
        let is_retry_due = {
            let mut host = self.host();
            host.set_maintained();
            host.is_retry_due(now)
        };
        if is_retry_due {
            let notice = self.host.lock_in_turn().retry(&*self.router, store);
            drop(notice);
        }
        self.host().end_maintenance(now)
    }

    /// A descriptor that becomes readable when the host refuses a step or the guest frees a vector, until
    /// [`DeviceDomain::maintain`] has answered when that is to be looked at.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn maintenance_fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.host().maintenance_fd()
    }

    /// Of the vectors that userspace delivers, how often it has delivered the one that it delivers most; 0 where there is
    /// none. Of several devices of a VM, [retry](Domain::retry) those with the most first: what room there is for messages
    /// goes to who comes first.
    pub fn max_relayed(&self) -> u32 {
        self.host().max_relayed()
    }

    /// How many vectors the guest has freed that are given back at a later [`Domain::retry`].
    pub fn expiring(&self) -> usize {
        self.host().expiring()
    }

    /// From now on a vector that the guest frees keeps its host vector and its eventfd for so long, in case
    /// the guest wants it again. Zero, as at first, gives them back at once.
    pub fn set_release_delay(&self, delay: Duration) {
        self.host().release_delay = delay;
    }

    /// A descriptor that is readable while there is something for [`DeviceDomain::deliver_relayed`] to do. From the
    /// first call on, vectors that the kernel cannot deliver (no room for their message) are delivered by way
    /// of it; before that they stay held.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn relay_fd(&self) -> io::Result<Arc<OwnedFd>> {
        let mut host = self.host();
        match &host.relay {
            Some(relay) => Ok(relay.clone()),
            None => Ok(host.relay.insert(Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?)).clone()),
        }
    }

    /// Delivers interrupts that wait for vectors without a route, some at a time. A vector that has been masked
    /// by now delivers nothing; an interrupt that cannot be delivered waits.
    pub fn deliver_relayed(&self) {
        self.host().deliver_relayed(&*self.router);
    }

    /// A descriptor that is readable while there is something for [`DeviceDomain::bind_deferred`] to do, from the moment on at which
    /// the access that brought it returns. From the first call on, a vector that the guest unmasks, and that has no host
    /// vector yet, gets it there, and the guest's write does not wait for the host. What the device raises for it meanwhile
    /// waits in its own pending bits, and comes when it has grown. A vector that has its host vector waits for nobody, nor
    /// does one of [MSI](crate::backend::Capabilities::independent).
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn deferred_bind_fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.host().deferred_bind_fd()
    }

    /// Requests host vectors for some of those that wait for it, and brings them to what `store` says now: the guest may
    /// have masked them again. What the host refuses waits for [`Domain::retry`], and is requested here again then. For a
    /// thread of its own: it may take as long as the host does. A guest's access that needs the domain waits for 16 of them,
    /// and the thread's other work for 256.
    pub fn bind_deferred(&self, store: &dyn Store) {
        for _ in 0..BATCHES {
            if !self.host.lock_in_turn().bind_deferred(&*self.router, store) {
                break;
            }
        }
    }

    /// How many vectors wait for [`DeviceDomain::bind_deferred`].
    pub fn deferred(&self) -> usize {
        self.host().deferred()
    }

    /// A mediator has an interrupt for `vector`: it stands between a guest's queue and a device of which the vector takes a
    /// host vector only while the guest uses it. Where it has one, the mediator has the device signal that; where it has
    /// none, the device cannot, and the interrupt waits here, as one pending bit however many there are. It comes when the
    /// vector goes live.
    ///
    /// The answer holds until the next call that changes the vector: a mediator keeps those (accesses, retries, growth,
    /// resets) away until it has told its device. A vector that is [`Off`](Delivery::Off) waits for its next user: what a
    /// guest has freed is the mediator's to leave alone.
    pub fn latch(&self, vector: Vector) -> Latched {
        self.host().latch(vector)
    }

    /// Calls `hook` for each failure of the host from now on, under the domain's lock. Each failure is counted too.
    pub fn on_failure(&self, hook: FailureHook) {
        self.host().on_failure = Some(hook);
    }

    /// From now on has `before_open` called before the capability is turned on in the host, and `after_close` once it is off again,
    /// also where the host has refused to turn it on. For a device with INTx: the host refuses MSI and MSI-X while INTx is on,
    /// so `before_open` turns INTx off, and `after_close` turns it on again. Both are called under the domain's lock and must
    /// not call the function.
    ///
    /// An error of `before_open` is a [`BackendError::Open`](crate::backend::BackendError::Open): every vector stays held, and
    /// the step is tried again. `after_close` is not called while the host refuses to turn the capability off.
    ///
    /// Interrupts meanwhile: the device keeps them, in its pending bits. Where it has none, as some have for MSI, it signals
    /// INTx until the window is open, or nothing.
    pub fn set_window_hooks(
        &self,
        before_open: impl FnMut() -> io::Result<()> + Send + 'static,
        after_close: impl FnMut() + Send + 'static,
    ) {
        self.host().window_hooks =
            WindowHooks { before_open: Box::new(before_open), after_close: Box::new(after_close) };
    }

    /// The embedder has reset the device itself, or the device has lost what the host programmed: every vector is unbound, the
    /// capability is turned off and on in the host, and each vector is brought to what `store` says.
    ///
    /// Interrupts meanwhile: those that wait in eventfds wait on, and are delivered once. What the device has forgotten by its
    /// reset is the device's matter.
    pub fn rearm(&self, store: &dyn Store) {
        self.host().rearm(&*self.router, store);
    }

    /// Ends the domain for good while others still hold it: every vector is detached, and everything is given back to the host.
    /// Afterwards no vector is bound whatever the store says. What the host refuses to take back is tried again by
    /// [`Domain::retry`].
    ///
    /// Interrupts meanwhile: none is delivered once this has returned, except those of a vector that the host refuses to detach.
    pub fn tear_down(&self) {
        self.host().tear_down(&*self.router);
    }

    /// The domain as it is now.
    pub fn report(&self) -> DomainReport {
        self.host().report()
    }

    fn host(&self) -> FairGuard<'_, Host> {
        self.host.lock()
    }
}

impl fmt::Debug for DeviceDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceDomain").finish_non_exhaustive()
    }
}

impl Sealed for DeviceDomain {}

impl Domain for DeviceDomain {
    fn sync(&self, store: &dyn Store, touched: Touched) {
        if !touched.is_empty() {
            // In a statement of its own, after the lock.
            let notice = self.host().sync_access(&*self.router, store, &touched);
            drop(notice);
        }
    }

    fn retry(&self, store: &dyn Store) {
        self.retry_at(store, Instant::now());
    }

    fn failed_steps(&self) -> usize {
        self.host().failed()
    }

    fn may_deliver(&self, vectors: Range<u32>) -> Option<Vector> {
        self.may_deliver.first(vectors)
    }

    /// What waits in eventfds, was latched when one was closed, or is pending in the device itself.
    fn pending(&self, group: u32) -> u64 {
        self.host().pending(group)
    }

    fn clear_pending(&self) {
        self.host().clear_pending();
    }

    fn set_bus_master(&self, store: &dyn Store, bus_master: BusMaster) {
        self.host().set_bus_master(&*self.router, store, bus_master);
    }

    /// Tells what waits in eventfds or was latched when one was closed. What is pending in the device itself is the
    /// device's to keep.
    fn suspend(&self, store: &dyn Store) -> Result<PendingBits, SuspendError> {
        self.host().suspend(&*self.router, store)
    }

    fn set_pending(&self, pending: &PendingBits) {
        self.host().set_pending(pending);
    }

    fn messages(&self, store: &dyn Store, messages: &mut Vec<Interrupt>) {
        let vectors = (0..store.vectors()).map(Vector);
        messages.extend(vectors.filter_map(|vector| match store.delivery(vector) {
            Delivery::Live(message) => match self.router.translate(message) {
                Ok(Target::Interrupt(interrupt)) => Some(interrupt),
                Ok(Target::Memory(_)) | Err(_) => None,
            },
            Delivery::Off | Delivery::Held => None,
        }));
    }

    fn resume(&self, store: &dyn Store) {
        self.host().resume(&*self.router, store);
    }
}

/// Teardown is a sync of nothing: every vector is detached before its route goes, and all is given back.
///
/// Interrupts meanwhile: none reaches the guest once this has returned, also where the host refuses to turn the device
/// off: then nobody listens to what it still signals. Shares of a budget go back in any case; the backend goes last, with
/// what the host did not take back before.
impl Drop for DeviceDomain {
    fn drop(&mut self) {
        self.host.get_mut().tear_down(&*self.router);
    }
}
