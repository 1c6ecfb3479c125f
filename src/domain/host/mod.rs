//! The host's side of one device: its backend, its vectors' states, and what is owed to them.
//!
//! Owned by one domain and used under its lock. A sync has four parts. It opens or closes the window (`window.rs`). It sets each
//! vector's target and detaches what must not deliver (here). It leaves some vectors to an embedder's thread (`deferred.rs`).
//! It attaches the rest (`attach.rs`), each by its steps (`step.rs`). What waits is read in `pending.rs`; everything is held in
//! `suspend.rs`. What is owed is timed in `maintain.rs`.
//!
//! Every part works on the vectors of [`Owed`], which has each of them from before the first host call until it is settled.

mod attach;
mod deferred;
mod maintain;
mod pending;
mod step;
mod suspend;
mod window;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bus_master::BusMaster;
use super::error::DomainError;
use super::may_deliver::MayDeliver;
use super::owed::{Later, Owed};
use super::report::Counters;
use super::slot::Slot;
use super::slots::Slots;
use crate::backend::{Backend, BackendError, Cookie, Programming};
use crate::budget::DeviceBudget;
use crate::counter::Increment;
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::interrupt::Target;
use crate::router::Router;
use deferred::Notice;
use maintain::Maintenance;
pub(super) use window::WindowHooks;

/// How many host vectors are bound or released at the most before the domain's lock is released.
pub(super) const BATCH: usize = 16;

/// An embedder's function that is called for each failure of the host, under the domain's lock.
pub type FailureHook = Box<dyn Fn(&DomainError) + Send>;

/// What the host has for the device.
pub(super) struct Host {
    backend: Box<dyn Backend>,
    /// How many vectors may be bound: what the capability was turned on for, or 0 while it is off.
    window: u32,
    pub(super) window_hooks: WindowHooks,
    /// No vector delivers.
    suspended: bool,
    /// No vector delivers while the bus does not let the device signal.
    bus_master: BusMaster,
    /// The embedder has torn the domain down: no vector is used any more.
    is_torn_down: bool,
    slots: Slots,
    owed: Owed,
    may_deliver: Arc<MayDeliver>,
    /// The host refused to turn the capability on or off.
    window_error: Option<DomainError>,
    /// How long a vector that the guest has freed keeps its host vector.
    pub(super) release_delay: Duration,
    /// What userspace watches for the vectors that it delivers, where an embedder does so.
    pub(super) relay: Option<Arc<OwnedFd>>,
    /// What userspace watches for vectors that wait for a host vector, where an embedder binds those on a thread.
    deferred_bind: Option<Arc<OwnedFd>>,
    /// What the backend was told that vectors carry, of those that carry something.
    cookies: BTreeMap<Vector, Cookie>,
    /// How many host vectors there may be.
    pub(super) budget: Arc<DeviceBudget>,
    bound: u32,
    /// The backend refused the last host vector that it was asked for.
    is_refusing: bool,
    counters: Counters,
    maintenance: Maintenance,
    /// The embedder wants to know of each failure.
    pub(super) on_failure: Option<FailureHook>,
    /// Vectors for which the host was short in this sync: kept between calls for its memory only.
    refused: Vec<Vector>,
}

impl Host {
    pub(super) fn new(vectors: u32, backend: Box<dyn Backend>, may_deliver: Arc<MayDeliver>) -> Self {
        Self {
            backend,
            window: 0,
            window_hooks: WindowHooks::default(),
            suspended: false,
            bus_master: BusMaster::Enabled,
            is_torn_down: false,
            slots: Slots::new(vectors as usize),
            owed: Owed::default(),
            may_deliver,
            window_error: None,
            release_delay: Duration::ZERO,
            relay: None,
            deferred_bind: None,
            cookies: BTreeMap::new(),
            budget: DeviceBudget::by_default(vectors),
            bound: 0,
            is_refusing: false,
            counters: Counters::default(),
            maintenance: Maintenance::default(),
            on_failure: None,
            refused: Vec::new(),
        }
    }

    /// Brings the vectors that a guest's access touched to what the store says, except those that are [bound
    /// later](Host::bind_deferred).
    pub(super) fn sync_access(
        &mut self,
        router: &dyn Router,
        store: &dyn Store,
        touched: &Touched,
    ) -> Notice {
        self.owed.begin(touched.below(self.slots.capacity() as u32));
        if self.has_lost_enable(store, touched) {
            // Everything is bound again.
            self.owed.end();
            self.owed.begin(self.all());
            self.close(router);
        }
        self.detach_stale(router, store);
        let notice = self.defer();
        self.attach_ready(router);
        self.end_sync();
        notice
    }

    /// Brings vectors to what the store says.
    pub(super) fn sync_vectors(
        &mut self,
        router: &dyn Router,
        store: &dyn Store,
        vectors: impl Iterator<Item = Vector>,
    ) {
        self.owed.begin(self.existing(vectors));
        self.detach_stale(router, store);
        self.attach_ready(router);
        self.end_sync();
    }

    /// Those that there are.
    fn existing<I: Iterator<Item = Vector>>(&self, vectors: I) -> impl Iterator<Item = Vector> + use<I> {
        let capacity = self.slots.capacity();
        vectors.take_while(move |vector| vector.index() < capacity)
    }

    fn all(&self) -> impl Iterator<Item = Vector> + use<> {
        (0..self.slots.capacity() as u32).map(Vector)
    }

    /// Closes or opens the window, sets each vector's target, and detaches what must not deliver as it does.
    fn detach_stale(&mut self, router: &dyn Router, store: &dyn Store) {
        let vectors = if self.is_torn_down { 0 } else { store.vectors() };
        // The host may have refused to open the window for earlier accesses.
        let missed = self.window_error.is_some();
        // MSI's block grows only as a whole: off, and on for more.
        if vectors == 0 || vectors > self.window {
            self.close(router);
        }
        if vectors == 0 || !self.open(vectors) {
            return;
        }
        if missed {
            // Those too that the guest may not use any more, and the host has kept.
            self.owed.end();
            self.owed.begin(self.all());
        }
        let mut index = 0usize;
        while let Some(work) = self.owed.work().get(index).copied() {
            let target = self.sync_vector(work.vector, store, router);
            if let Some(work) = self.owed.work_mut().get_mut(index) {
                work.target = target;
            }
            index.increment();
        }
    }

    /// Takes one vector down as far as it must be; answers the target that it is to be attached to.
    fn sync_vector(&mut self, vector: Vector, store: &dyn Store, router: &dyn Router) -> Option<Target> {
        // Most often none waits, and then looking this one up is what would cost.
        let was_freed =
            !self.owed.none_later() && matches!(self.owed.remove(vector), Some(Later::Expires(_)));
        // Before the store is read: see `may_deliver.rs`.
        self.may_deliver.set(vector);
        // The store may have granted more since the window was opened. The access that did so syncs after this.
        let (delivery, cookie) =
            if vector.0 < self.window { store.answer(vector) } else { (Delivery::Off, None) };
        match delivery {
            Delivery::Off => {
                self.hold(vector, router);
                self.expire(vector);
                None
            }
            Delivery::Held => {
                self.hold(vector, router);
                None
            }
            Delivery::Live(_) if self.suspended || self.bus_master == BusMaster::Disabled => {
                self.hold(vector, router);
                None
            }
            Delivery::Live(message) => match router.translate(message) {
                Ok(target) => {
                    let is_suspect = was_freed || store.take_rewritten(vector);
                    if self.update_cookie(vector, cookie, router) {
                        self.set_target(vector, target, is_suspect.then_some(was_freed), router)
                    } else {
                        None
                    }
                }
                // The guest's mistake: there is nothing to try again before the guest has changed something.
                Err(refusal) => {
                    self.hold(vector, router);
                    self.counters.count(refusal);
                    None
                }
            },
        }
    }

    /// `suspect` says that the device may have lost what the host programmed, and whether the guest has freed the vector since.
    fn set_target(
        &mut self,
        vector: Vector,
        target: Target,
        suspect: Option<bool>,
        router: &dyn Router,
    ) -> Option<Target> {
        if let Some(was_freed) = suspect
            && (was_freed || self.slot(vector).and_then(Slot::last_target) == Some(target))
        {
            self.rebind_lost(vector, router);
        }
        match (self.slot(vector), target) {
            (Some(Slot::Live { route, .. }), Target::Interrupt(interrupt))
                if route.message() == interrupt =>
            {
                None
            }
            (Some(Slot::Relayed { target: relayed, .. }), _) if *relayed == target => match target {
                // It stays as it is unless there is a route for it by now.
                Target::Interrupt(_) => Some(target),
                Target::Memory(_) => None,
            },
            // Where the host refuses to let go of the old message, a new one has to wait.
            _ => self.hold(vector, router).then_some(target),
        }
    }

    /// Unbinds a vector that the device has lost, so that it is bound again.
    #[cold]
    fn rebind_lost(&mut self, vector: Vector, router: &dyn Router) {
        if !self.slot(vector).is_some_and(Slot::has_host_vector)
            || self.backend.vector_programming(vector) == Programming::Kept
        {
            return;
        }
        if self.hold(vector, router) && self.unbind(vector) {
            self.counters.rebinds.increment();
        }
    }

    /// Whether the device may have lost its enable bit, which a driver has set although it was set.
    fn has_lost_enable(&mut self, store: &dyn Store, touched: &Touched) -> bool {
        touched.writes_enable()
            && self.window > 0
            && store.vectors() > 0
            && self.backend.enable_programming() == Programming::Lost
    }

    /// Has a vector's interrupts carry what they should from now on; true where they do. A bound vector is bound again for it,
    /// and nothing that waits is lost meanwhile.
    fn update_cookie(&mut self, vector: Vector, cookie: Option<Cookie>, router: &dyn Router) -> bool {
        self.cookies.get(&vector).copied() == cookie || self.change_cookie(vector, cookie, router)
    }

    #[cold]
    fn change_cookie(&mut self, vector: Vector, cookie: Option<Cookie>, router: &dyn Router) -> bool {
        self.hold(vector, router);
        // Not released: the device keeps what it raises meanwhile for this vector.
        self.unbind(vector);
        if !matches!(self.slot(vector), None | Some(Slot::Idle { .. })) {
            // The host did not unbind it: the vector is tried again, with the cookie that it has until then.
            return false;
        }
        match (self.backend.set_cookie(vector, cookie), cookie) {
            (Ok(()), Some(cookie)) => drop(self.cookies.insert(vector, cookie)),
            (Ok(()), None) => drop(self.cookies.remove(&vector)),
            // There is nothing to try again before the guest has changed something.
            (Err(BackendError::NoCookies { .. }), _) => {
                self.counters.refused_cookies.increment();
                return false;
            }
            (Err(error), _) => {
                self.leave_failed(vector, error.into());
                return false;
            }
        }
        true
    }

    /// The sync is over: what is not settled is in one of the other lists.
    fn end_sync(&mut self) {
        for work in self.owed.work() {
            if !self.slots.get(work.vector).is_some_and(Slot::delivers) {
                self.may_deliver.clear(work.vector);
            }
        }
        self.owed.end();
    }

    /// Releases some host vectors whose delay is over; true where others wait for that.
    pub(super) fn release_expired(&mut self, now: Instant) -> bool {
        // Where another vector waits for a host vector that is kept here, the delay is over now.
        let is_short = self.budget.is_short();
        let mut expired = self.owed.expiring().filter(|(_, at)| is_short || *at <= now);
        let some: Vec<_> = expired.by_ref().take(BATCH).map(|(vector, _)| vector).collect();
        let others_wait = expired.next().is_some();
        drop(expired);
        some.into_iter().for_each(|vector| self.release(vector));
        others_wait
    }

    /// Tries again what the host refused, the vectors first that userspace delivers most often. Host vectors are bound where they
    /// were to be bound at first: each may take as long as the host does.
    pub(super) fn retry(&mut self, router: &dyn Router, store: &dyn Store) -> Notice {
        let mut vectors: Vec<Vector> = match self.window_error {
            // At least one, so that a window that could not be closed is tried again too.
            Some(_) => (0..store.vectors().max(1)).map(Vector).collect(),
            None => self.owed.failed_vectors().collect(),
        };
        if vectors.is_empty() {
            return Notice::default();
        }
        vectors.sort_by_key(|vector| std::cmp::Reverse(self.slot(*vector).map_or(0, Slot::relayed)));
        vectors.dedup();
        let existing = self.existing(vectors.into_iter());
        self.owed.end();
        self.owed.begin(existing);
        self.detach_stale(router, store);
        let notice = self.defer();
        self.attach_ready(router);
        self.end_sync();
        notice
    }

    /// How many steps wait for another try.
    pub(super) fn failed(&self) -> usize {
        self.owed.failed().saturating_add(self.window_error.is_some().into())
    }

    /// How often userspace has delivered the vector that it delivers most, of those that should be delivered by the kernel.
    pub(super) fn max_relayed(&self) -> u32 {
        let relayed = |vector: Vector| self.slot(vector).map_or(0, Slot::relayed);
        self.owed.failed_vectors().map(relayed).max().unwrap_or(0)
    }

    /// How many freed vectors still have their host vector.
    pub(super) fn expiring(&self) -> usize {
        self.owed.expiring().count()
    }

    /// When the first of them is to be released.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.owed.expiring().map(|(_, at)| at).min()
    }

    fn slot(&self, vector: Vector) -> Option<&Slot> {
        self.slots.get(vector)
    }

    /// A freed vector keeps its host vector for a while: a driver that requests it again pays nothing.
    fn expire(&mut self, vector: Vector) {
        match self.slot(vector) {
            Some(Slot::Held { .. }) if self.release_delay.is_zero() => self.release(vector),
            Some(Slot::Held { .. }) => {
                let now = Instant::now();
                let at = now.checked_add(self.release_delay).unwrap_or(now);
                self.owed.insert(vector, Later::Expires(at));
                self.notify_maintenance();
            }
            // Unbound for another cookie, and freed before it was bound again.
            None | Some(Slot::Idle { .. }) if self.cookies.contains_key(&vector) => {
                self.backend.release(vector)
            }
            _ => {}
        }
    }

    /// Gives a held vector back to the host.
    fn release(&mut self, vector: Vector) {
        if self.unbind(vector) {
            self.owed.remove(vector);
            self.backend.release(vector);
        }
    }

    /// Takes a held vector's eventfd away from the device; true where that was done.
    fn unbind(&mut self, vector: Vector) -> bool {
        let is_held = matches!(self.slot(vector), Some(Slot::Held { .. }));
        let is_unbound = is_held && self.try_step(vector, |slot, means| slot.unbind(vector, means.backend));
        if is_unbound {
            self.count_unbind();
        }
        is_unbound
    }

    /// Lets a vector's interrupts wait; true where they do.
    #[inline]
    fn hold(&mut self, vector: Vector, router: &dyn Router) -> bool {
        match self.slot(vector) {
            None | Some(Slot::Idle { .. } | Slot::Held { .. }) => true,
            Some(Slot::Live { .. } | Slot::Relayed { .. } | Slot::Detaching { .. }) => {
                self.try_step(vector, |slot, means| slot.hold(router, means.relay))
            }
        }
    }
}
