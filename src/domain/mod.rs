//! A device's interrupt domain: brings each vector in the host to what its store says it should be.
//!
//! Owns the device's host vectors: their eventfds, their routes, and the interrupts that wait for them.
//! Invariant: between calls each vector is in one of the states of `slot.rs`, and what could not be reached
//! is kept with the host's reason. Everything is one operation, [`Domain::sync`]: enable, mask,
//! grow, shrink, retarget, reset and restore differ only in what the store says, and it may be called twice.
//!
//! Locking: one lock a domain, taken before the router's and the store's. Hardly any guest access that changes
//! nothing in the host comes here. PBA reads do: pending bits belong to the domain (PCIe r6 §7.7.2.7).
//! Who finds the lock taken waits for it in turn, and so does growth each time that it takes it again: a lock that is given
//! up and taken at once would be had by nobody else.

mod bus_master;
mod error;
mod host;
mod latched;
mod report;
mod slot;
mod slots;
mod software;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::epoll;

pub use bus_master::BusMaster;
pub use error::{Cause, DomainError};
pub use latched::Latched;
pub use report::{Counters, DomainReport, State, VectorReport};
pub use software::{SoftwareCounters, SoftwareDomain};

use crate::backend::Backend;
use crate::budget::Budget;
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::interrupt::{Interrupt, Target};
use crate::router::Router;
use crate::state::{PendingBits, SuspendError};
use host::Host;

/// What a capability's registers need of the domain behind them.
pub trait Domain {
    /// Brings the touched vectors to what `store` says now. The store is read under the domain's lock, so the
    /// last of several concurrent calls leaves the host as the last write left the store.
    ///
    /// Interrupts meanwhile: those of a vector on its way down wait, and a vector on its way up delivers one
    /// for all that waited, at once or when an embedder's thread has [grown](DeviceDomain::grow) it. When this returns, no
    /// touched vector delivers on an old message or while masked,
    /// whatever else the host refused (see [`Domain::unsettled`]). A vector that the host refuses to detach is the
    /// exception: it stays as it was, is unsettled, and is tried again.
    fn sync(&self, store: &dyn Store, touched: Touched);

    /// Tries again what the host refused. Cheap where it refused nothing; call it now and then while
    /// [`Domain::unsettled`] is not 0.
    fn retry(&self, store: &dyn Store);

    /// How many vectors are not what they should be because the host refused a step.
    fn unsettled(&self) -> usize;

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

/// How many host vectors are requested or given back at the most before the domain's lock is given up.
const REQUESTS: usize = 16;

/// How often one call takes the lock to grow on.
const GROWTHS: u32 = 16;

/// One device's vectors of one store, whose interrupts come through eventfds.
pub struct DeviceDomain {
    router: Arc<dyn Router>,
    host: Mutex<Host>,
    /// Whoever is the next to have the host holds this while it waits.
    turn: Mutex<()>,
}

impl DeviceDomain {
    /// A domain of up to `vectors` vectors, none of which costs the host anything yet.
    pub fn new(vectors: u32, router: Arc<dyn Router>, backend: Box<dyn Backend>) -> Self {
        Self { router, host: Mutex::new(Host::new(vectors, backend)), turn: Mutex::default() }
    }

    /// The same domain with a budget, which it may share with others of the device. Without one it has no limit.
    pub fn within(mut self, budget: Arc<Budget>) -> Self {
        self.host.get_mut().unwrap_or_else(PoisonError::into_inner).budget = budget;
        self
    }

    /// As [`Domain::retry`], and gives back what has lingered; for an embedder with a clock of its own.
    pub fn retry_at(&self, store: &dyn Store, now: Instant) {
        // No more often than there are vectors that linger now, as the guest may go on to free some.
        for _ in 0..self.lingering().div_ceil(REQUESTS) {
            if !self.host_in_turn().give_back(now) {
                break;
            }
        }
        // In a statement of its own, after the lock.
        let call = self.host_in_turn().retry(&*self.router, store);
        drop(call);
    }

    /// Of the vectors that userspace delivers, how often it has delivered the one that it delivers most; 0 where there is
    /// none. Of several devices of a VM, [retry](Domain::retry) those with the most first: what room there is for messages
    /// goes to who comes first.
    pub fn busiest(&self) -> u32 {
        self.host().busiest()
    }

    /// How many vectors the guest has freed that are given back at a later [`Domain::retry`].
    pub fn lingering(&self) -> usize {
        self.host().lingering()
    }

    /// From now on a vector that the guest frees keeps its host vector and its eventfd for so long, in case
    /// the guest wants it again. Zero, as at first, gives them back at once.
    pub fn set_linger(&self, linger: Duration) {
        self.host().linger = linger;
    }

    /// A descriptor that is readable while there is something for [`DeviceDomain::deliver`] to do. From the
    /// first call on, vectors that the kernel cannot deliver (no room for their message) are delivered by way
    /// of it; before that they stay held.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn relay(&self) -> io::Result<Arc<OwnedFd>> {
        let mut host = self.host();
        match &host.relay {
            Some(relay) => Ok(relay.clone()),
            None => Ok(host.relay.insert(Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?)).clone()),
        }
    }

    /// Delivers interrupts that wait for vectors without a route, some at a time. A vector that has been masked
    /// by now delivers nothing; an interrupt that cannot be delivered waits.
    pub fn deliver(&self) {
        self.host().deliver(&*self.router);
    }

    /// A descriptor that is readable while there is something for [`DeviceDomain::grow`] to do, from the moment on at which
    /// the access that brought it returns. From the first call on, a vector that the guest unmasks, and that has no host
    /// vector yet, gets it there, and the guest's write does not wait for the host. What the device raises for it meanwhile
    /// waits in its own pending bits, and comes when it has grown. A vector that has its host vector waits for nobody, nor
    /// does one of [MSI](crate::backend::Capabilities::independent).
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn growth(&self) -> io::Result<Arc<OwnedFd>> {
        self.host().growth()
    }

    /// Requests host vectors for some of those that wait for it, and brings them to what `store` says now: the guest may
    /// have masked them again. What the host refuses waits for [`Domain::retry`], and is requested here again then. For a
    /// thread of its own: it may take as long as the host does. A guest's access that needs the domain waits for 16 of them,
    /// and the thread's other work for 256.
    pub fn grow(&self, store: &dyn Store) {
        for _ in 0..GROWTHS {
            if !self.host_in_turn().grow(&*self.router, store) {
                break;
            }
        }
    }

    /// How many vectors wait for [`DeviceDomain::grow`].
    pub fn growing(&self) -> usize {
        self.host().growing()
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

    /// The domain as it is now.
    pub fn report(&self) -> DomainReport {
        self.host().report()
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        match self.host.try_lock() {
            Ok(host) => host,
            // A panic elsewhere leaves each slot in one of its states: the next sync goes on from there.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => self.host_in_turn(),
        }
    }

    /// The same, for who has to wait: whoever has the turn is the next.
    #[cold]
    fn host_in_turn(&self) -> MutexGuard<'_, Host> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DeviceDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceDomain").finish_non_exhaustive()
    }
}

impl Domain for DeviceDomain {
    fn sync(&self, store: &dyn Store, touched: Touched) {
        if !touched.is_empty() {
            // In a statement of its own, after the lock.
            let call = self.host().follow(&*self.router, store, touched.vectors());
            drop(call);
        }
    }

    fn retry(&self, store: &dyn Store) {
        self.retry_at(store, Instant::now());
    }

    fn unsettled(&self) -> usize {
        self.host().unsettled()
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
        let host = self.host.get_mut().unwrap_or_else(PoisonError::into_inner);
        host.close(&*self.router);
    }
}
