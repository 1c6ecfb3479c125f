//! A device's interrupt domain: brings each vector in the host to what its store says it should be.
//!
//! Owns the device's host vectors: their eventfds, their routes, and the interrupts that wait for them. Everything is one
//! operation, [`Domain::sync`]. Enable, mask, retarget, reset and restore differ only in what the store says. Calling it twice does
//! no harm.
//!
//! Invariant: between calls each vector is in one of the states of `slot.rs`. Each vector that differs from what its store says is
//! in `owed.rs`, with the host's reason. A panic in a backend, router or stage forgets no vector: the next call works on the
//! vectors that the panic has left. A host call that panics counts as not made.
//!
//! Locking: one fair lock a domain (`fair.rs`), taken before the router's and the store's. Most guest accesses that change
//! nothing in the host do not take it. A read of the PBA does, because pending bits belong to the domain (PCIe r6 §7.7.2.9).

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

/// The domain behind a function's registers: the calls that a guest's accesses and a snapshot make.
pub trait Domain: Sealed {
    /// Brings the touched vectors to what `store` says now. The domain reads the store under its lock. The last of several
    /// concurrent calls therefore leaves the host as the last write left the store.
    ///
    /// Interrupts meanwhile: the interrupts of a vector that stops delivering wait. A vector that starts to deliver sends one
    /// interrupt for all that waited, at once or after [`DeviceDomain::bind_deferred`]. When this returns, no touched vector
    /// delivers on an old message or while masked, even if the host refused other steps. One exception: a vector that the host
    /// refuses to detach stays as it was. It counts in [`Domain::failed_steps`] and is tried again.
    fn sync(&self, store: &dyn Store, touched: Touched);

    /// Tries the steps again that the host refused. Cheap if there are none. Call it now and then while
    /// [`Domain::failed_steps`] is not 0.
    fn retry(&self, store: &dyn Store);

    /// How many vectors are not what they should be because the host refused a step.
    fn failed_steps(&self) -> usize;

    /// The first of `vectors` that may be delivering at this moment. Takes no lock.
    ///
    /// A guest's access that shows a vector as masked calls this after it has read the registers. If the vector is named, another
    /// vCPU's access has masked it and has not detached it yet. The access then [syncs](Domain::sync) the vector.
    fn may_deliver(&self, vectors: Range<u32>) -> Option<Vector>;

    /// The pending bits of vectors 64 × `group` to 64 × `group` + 63, lowest vector in the lowest bit. Reading
    /// clears nothing.
    fn pending(&self, group: u32) -> u64;

    /// Drops the interrupts that wait here, because the device was reset. Call it after a sync that has detached its vectors.
    fn clear_pending(&self);

    /// Sets whether the bus lets the function send messages; at first it does. While it does not, every vector's interrupts wait,
    /// whatever the store says. When it does again, each vector is brought to what `store` says. Cheap if nothing changes. A reset
    /// of the function does not change it, because the Command register is the embedder's.
    ///
    /// Interrupts meanwhile: after [`BusMaster::Disabled`] none is delivered once this has returned, except those of a vector that
    /// the host refuses to detach.
    fn set_bus_master(&self, store: &dyn Store, bus_master: BusMaster);

    /// Holds every vector, whatever the store says, until [`Domain::resume`]. Returns the vectors for which interrupts wait here,
    /// and clears none of them. It may be called again.
    ///
    /// # Errors
    /// The host refuses to detach a vector. The domain goes on as before.
    fn suspend(&self, store: &dyn Store) -> Result<PendingBits, SuspendError>;

    /// Makes interrupts wait for exactly these vectors, after the store was restored. The domain must be suspended.
    fn set_pending(&self, pending: &PendingBits);

    /// Adds the messages that [`Domain::resume`] will publish.
    fn messages(&self, store: &dyn Store, messages: &mut Vec<Interrupt>);

    /// Brings every vector to what `store` says, if the domain is suspended.
    fn resume(&self, store: &dyn Store);
}

/// How many batches one call binds.
const BATCHES: u32 = 16;

/// The result of [`DeviceDomain::latch`].
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

    /// As [`Domain::retry`], and releases freed vectors whose release delay is over at `now`.
    pub fn retry_at(&self, store: &dyn Store, now: Instant) {
        self.release_expired(now);
        // Dropped after the lock: see `Notice`.
        let notice = {
            let mut host = self.host.lock_in_turn();
            host.set_maintained();
            host.retry(&*self.router, store)
        };
        drop(notice);
    }

    fn release_expired(&self, now: Instant) {
        // A bounded number of batches, because the guest may go on to free vectors.
        for _ in 0..self.expiring().div_ceil(BATCH) {
            if !self.host.lock_in_turn().release_expired(now) {
                break;
            }
        }
    }

    /// Does all work that is not on a guest's path. It delivers relayed interrupts, binds deferred vectors, and releases freed
    /// vectors whose release delay is over. It tries refused steps again, 100 ms after the call that has first seen them.
    ///
    /// Returns how long the next call may wait, or `None` if no work is left. Call it earlier if a descriptor becomes readable:
    /// [`DeviceDomain::maintenance_fd`], [`DeviceDomain::relay_fd`] or [`DeviceDomain::deferred_bind_fd`].
    /// [`Maintenance`](crate::Maintenance) has these descriptors and the clock in one.
    ///
    /// Interrupts meanwhile: none is lost. If steps are refused and neither this nor a retry is ever called, the domain logs that.
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

    /// An eventfd that becomes readable when the host refuses a step or the guest frees a vector. The next call of
    /// [`DeviceDomain::maintain`] clears it.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn maintenance_fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.host().maintenance_fd()
    }

    /// How many interrupts userspace has delivered for the busiest relayed vector; 0 if no vector is relayed. Of several devices
    /// of a VM, [retry](Domain::retry) the one with the highest number first: free routes go to the first caller.
    pub fn max_relayed(&self) -> u32 {
        self.host().max_relayed()
    }

    /// How many freed vectors keep their host vector until their release delay is over.
    pub fn expiring(&self) -> usize {
        self.host().expiring()
    }

    /// Sets how long a freed vector keeps its host vector and its eventfd, in case the guest requests it again. At first it is zero:
    /// a freed vector is released at once.
    pub fn set_release_delay(&self, delay: Duration) {
        self.host().release_delay = delay;
    }

    /// An epoll descriptor that is readable while [`DeviceDomain::deliver_relayed`] has something to deliver. From the first call
    /// on, a vector whose message has no route is relayed by userspace. Before that it stays held.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn relay_fd(&self) -> io::Result<Arc<OwnedFd>> {
        let mut host = self.host();
        match &host.relay {
            Some(relay) => Ok(relay.clone()),
            None => Ok(host.relay.insert(Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?)).clone()),
        }
    }

    /// Delivers interrupts of relayed vectors, at most 64 a call. A vector that is masked by now delivers nothing. An interrupt that
    /// the host refuses to deliver waits.
    pub fn deliver_relayed(&self) {
        self.host().deliver_relayed(&*self.router);
    }

    /// An eventfd that is readable while vectors wait for [`DeviceDomain::bind_deferred`]. It is signalled before the guest's access
    /// returns.
    ///
    /// From the first call on, a vector without a host vector is deferred when the guest unmasks it: the guest's write does not
    /// wait for the host. A vector that has its host vector is never deferred, and neither is one of
    /// [MSI](crate::backend::Capabilities::independent).
    ///
    /// Interrupts meanwhile: the interrupts of a deferred vector wait in the device's own pending bits until it is bound.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn deferred_bind_fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.host().deferred_bind_fd()
    }

    /// Requests host vectors for at most 256 deferred vectors, and brings them to what `store` says now: the guest may have masked
    /// them again. A vector that the host refuses is deferred again by the next [`Domain::retry`].
    ///
    /// Call it on a thread of its own, because the host may take long. The lock is released after every 16 vectors, so a guest's
    /// access waits for 16 of them at most.
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

    /// Makes an interrupt wait for a vector that has no host vector. It is for a mediator between a guest's queue and a device.
    ///
    /// If the vector has a host vector, nothing is done, and the mediator has the device signal it. If it has none, the interrupt
    /// waits here as one pending bit, however many there are. It is delivered when the vector goes live.
    ///
    /// The answer holds until the next call that changes the vector. The mediator therefore keeps accesses, retries, deferred
    /// binds and resets away until it has told its device. Do not call this for a vector that the guest has freed: the interrupt
    /// of a vector that is [`Off`](Delivery::Off) would reach its next user.
    pub fn latch(&self, vector: Vector) -> Latched {
        self.host().latch(vector)
    }

    /// Calls `hook` for each failure of the host from now on, under the domain's lock. Each failure is counted too.
    pub fn on_failure(&self, hook: FailureHook) {
        self.host().on_failure = Some(hook);
    }

    /// Calls `before_open` before the capability is enabled in the host, and `after_close` once it is disabled again. `after_close`
    /// is also called if the host refuses to enable it, but not while the host refuses to disable it.
    ///
    /// A device with INTx needs them, because the host refuses MSI and MSI-X while INTx is enabled. `before_open` then disables
    /// INTx, and `after_close` enables it again. Both are called under the domain's lock and must not call the function.
    ///
    /// An error of `before_open` becomes a [`BackendError::Open`](crate::backend::BackendError::Open): every vector stays held, and
    /// the step is tried again.
    ///
    /// Interrupts meanwhile: they wait in the device's pending bits. A device without pending bits, as for some MSI, signals INTx
    /// until the window is open, or nothing.
    pub fn set_window_hooks(
        &self,
        before_open: impl FnMut() -> io::Result<()> + Send + 'static,
        after_close: impl FnMut() + Send + 'static,
    ) {
        self.host().window_hooks =
            WindowHooks { before_open: Box::new(before_open), after_close: Box::new(after_close) };
    }

    /// Binds every vector again, after the device was reset or has lost what the host programmed. The capability is disabled and
    /// enabled in the host, and each vector is brought to what `store` says.
    ///
    /// Interrupts meanwhile: interrupts that wait in eventfds go on to wait, and are delivered once. Pending bits that the device
    /// has lost by its reset are lost.
    pub fn rearm(&self, store: &dyn Store) {
        self.host().rearm(&*self.router, store);
    }

    /// Ends the domain for good while other references to it exist. Every vector is detached and released, and no vector is bound
    /// afterwards, whatever the store says. Steps that the host refuses are tried again by [`Domain::retry`].
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
            // Dropped after the lock: see `Notice`.
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

    /// The interrupts that wait in eventfds, were latched when an eventfd was closed, or are pending in the device.
    fn pending(&self, group: u32) -> u64 {
        self.host().pending(group)
    }

    fn clear_pending(&self) {
        self.host().clear_pending();
    }

    fn set_bus_master(&self, store: &dyn Store, bus_master: BusMaster) {
        self.host().set_bus_master(&*self.router, store, bus_master);
    }

    /// Returns the interrupts that wait in eventfds or were latched when an eventfd was closed. The device keeps its own pending bits.
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

/// Detaches every vector before its route is put back, and releases everything.
///
/// Interrupts meanwhile: none reaches the guest once this has returned. If the host refuses to disable the capability, the device
/// signals eventfds that nobody reads. Shares of a budget are given back in any case. The backend is dropped last, with the host
/// vectors that the host did not take back.
impl Drop for DeviceDomain {
    fn drop(&mut self) {
        self.host.get_mut().tear_down(&*self.router);
    }
}
