//! The host's side of one device: its backend, its vectors' states, and the steps that are owed to them.
//!
//! One domain owns it and uses it under the domain's lock. A sync has four parts:
//!
//! 1. It opens or closes the window (`window.rs`).
//! 2. It sets each vector's target, and detaches each vector that must not deliver (here).
//! 3. It leaves vectors without a host vector to an embedder's thread (`deferred.rs`).
//! 4. It attaches the rest (`attach.rs`), vector by vector (`step.rs`).
//!
//! `pending.rs` reads the interrupts that wait, `suspend.rs` holds all vectors, and `maintain.rs` times the steps that are owed.
//! Every part works on the vectors of [`Owed`], which has each of them from before the first host call until its last step.

mod attach;
mod deferred;
mod maintain;
mod notice;
mod pending;
mod step;
mod suspend;
mod window;
mod window_hooks;

use std::collections::BTreeMap;
use std::io;
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
use maintain::Maintenance;
use notice::Notice;
pub(super) use window_hooks::WindowHooks;

/// How many host vectors are bound or released at the most before the domain's lock is released.
pub(super) const BATCH: usize = 16;

/// An embedder's function that is called for each failure of the host, under the domain's lock.
pub type FailureHook = Box<dyn Fn(&DomainError) + Send>;

/// The device's backend, and the state of each of its vectors in the host.
pub(super) struct Host {
    backend: Box<dyn Backend>,
    /// How many vectors may be bound: what the capability was turned on for, or 0 while it is off.
    window: u32,
    pub(super) window_hooks: WindowHooks,
    /// No vector delivers.
    suspended: bool,
    /// No vector delivers while the bus does not let the device signal.
    bus_master: BusMaster,
    /// The embedder has torn the domain down: no vector is bound any more.
    is_torn_down: bool,
    slots: Slots,
    owed: Owed,
    may_deliver: Arc<MayDeliver>,
    /// The host refused to turn the capability on or off.
    window_error: Option<DomainError>,
    /// How long a vector that the guest has freed keeps its host vector.
    pub(super) release_delay: Duration,
    /// The epoll descriptor of the relayed vectors, if an embedder delivers those.
    pub(super) relay: Option<Arc<OwnedFd>>,
    /// The eventfd that wakes the thread which binds deferred vectors, if an embedder has one.
    deferred_bind: Option<Arc<OwnedFd>>,
    /// The cookie of each vector that has one, as the backend was told.
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
    /// Vectors that the host or a budget refused in this sync. Kept between calls for its memory only.
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

    /// `vectors`, up to the first that does not exist.
    fn existing<I: Iterator<Item = Vector>>(&self, vectors: I) -> impl Iterator<Item = Vector> + use<I> {
        let capacity = self.slots.capacity();
        vectors.take_while(move |vector| vector.index() < capacity)
    }

    fn all(&self) -> impl Iterator<Item = Vector> + use<> {
        (0..self.slots.capacity() as u32).map(Vector)
    }

    /// Closes or opens the window, sets each vector's target, and detaches each vector that must not deliver.
    fn detach_stale(&mut self, router: &dyn Router, store: &dyn Store) {
        let vectors = if self.is_torn_down { 0 } else { store.vectors() };
        // The host may have refused to open the window for earlier accesses.
        let missed = self.window_error.is_some();
        // A larger block of MSI messages needs a new window.
        if vectors == 0 || vectors > self.window {
            self.close(router);
        }
        if vectors == 0 || !self.open(vectors) {
            return;
        }
        if missed {
            // Vectors that the guest does not use any more may still have a host vector.
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

    /// Detaches one vector if it must not deliver as it does. Returns the target that it is to be attached to.
    fn sync_vector(&mut self, vector: Vector, store: &dyn Store, router: &dyn Router) -> Option<Target> {
        // The first check is cheap and true most of the time. It saves the look-up.
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
                // The guest's mistake. It is not tried again before the guest's next change.
                Err(refusal) => {
                    self.hold(vector, router);
                    self.counters.count(refusal);
                    None
                }
            },
        }
    }

    /// Detaches a vector unless it delivers to `target` already. Returns the target that it is to be attached to.
    ///
    /// `suspect` is set if the device may have lost the vector's message. Its value says whether the guest has freed the vector since.
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
                // It stays relayed unless there is a route for it by now.
                Target::Interrupt(_) => Some(target),
                Target::Memory(_) => None,
            },
            // If the host refuses to detach the old message, the new one waits.
            _ => self.hold(vector, router).then_some(target),
        }
    }

    /// Unbinds a vector whose message the device has lost. The sync then binds it again.
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

    /// Whether the device has lost its enable bit. A driver that sets it although it was set gives the reason to ask.
    fn has_lost_enable(&mut self, store: &dyn Store, touched: &Touched) -> bool {
        touched.writes_enable()
            && self.window > 0
            && store.vectors() > 0
            && self.backend.enable_programming() == Programming::Lost
    }

    /// Sets a vector's cookie; true if the vector has it now. A bound vector is unbound for that and bound again. Interrupts that wait
    /// are not lost meanwhile.
    fn update_cookie(&mut self, vector: Vector, cookie: Option<Cookie>, router: &dyn Router) -> bool {
        self.cookies.get(&vector).copied() == cookie || self.change_cookie(vector, cookie, router)
    }

    #[cold]
    fn change_cookie(&mut self, vector: Vector, cookie: Option<Cookie>, router: &dyn Router) -> bool {
        self.hold(vector, router);
        // Not released: the device keeps the interrupts that it raises meanwhile for this vector.
        self.unbind(vector);
        if !matches!(self.slot(vector), None | Some(Slot::Idle { .. })) {
            // The host did not unbind it. The vector keeps its old cookie and is tried again.
            return false;
        }
        match (self.backend.set_cookie(vector, cookie), cookie) {
            (Ok(()), Some(cookie)) => drop(self.cookies.insert(vector, cookie)),
            (Ok(()), None) => drop(self.cookies.remove(&vector)),
            // It is not tried again before the guest's next change.
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

    /// Ends the sync. Each vector with steps left is in another list of [`Owed`].
    fn end_sync(&mut self) {
        for work in self.owed.work() {
            if !self.slots.get(work.vector).is_some_and(Slot::delivers) {
                self.may_deliver.clear(work.vector);
            }
        }
        self.owed.end();
    }

    /// Releases at most [`BATCH`] host vectors whose release delay is over; true if others are left.
    pub(super) fn release_expired(&mut self, now: Instant) -> bool {
        // If another vector waits for a host vector, every delay is over now.
        let is_short = self.budget.is_short();
        let mut expired = self.owed.expiring().filter(|(_, at)| is_short || *at <= now);
        let some: Vec<_> = expired.by_ref().take(BATCH).map(|(vector, _)| vector).collect();
        let others_wait = expired.next().is_some();
        drop(expired);
        some.into_iter().for_each(|vector| self.release(vector));
        others_wait
    }

    /// Tries refused steps again, beginning with the busiest relayed vectors. A vector that was deferred at first is deferred again,
    /// because binding it may take long.
    pub(super) fn retry(&mut self, router: &dyn Router, store: &dyn Store) -> Notice {
        let mut vectors: Vec<Vector> = match self.window_error {
            // At least one vector, so that a refused close is tried again too.
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

    /// How many refused steps are tried again later.
    pub(super) fn failed(&self) -> usize {
        self.owed.failed().saturating_add(self.window_error.is_some().into())
    }

    /// How many interrupts userspace has delivered for the busiest relayed vector that waits for a route.
    pub(super) fn max_relayed(&self) -> u32 {
        let relayed = |vector: Vector| self.slot(vector).map_or(0, Slot::relayed);
        self.owed.failed_vectors().map(relayed).max().unwrap_or(0)
    }

    /// How many freed vectors still have their host vector.
    pub(super) fn expiring(&self) -> usize {
        self.owed.expiring().count()
    }

    /// When the first of the expiring vectors is to be released.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.owed.expiring().map(|(_, at)| at).min()
    }

    /// An eventfd that is readable while there is work that [`DeviceDomain::maintain`](crate::DeviceDomain::maintain) has not timed.
    pub(super) fn maintenance_fd(&mut self) -> io::Result<Arc<OwnedFd>> {
        let owes = self.failed() > 0 || self.expiring() > 0;
        self.maintenance.fd(owes)
    }

    /// The embedder retries or maintains the domain.
    pub(super) fn set_maintained(&mut self) {
        self.maintenance.set_maintained();
    }

    /// Whether refused steps are due now.
    pub(super) fn is_retry_due(&self, now: Instant) -> bool {
        self.maintenance.is_retry_due(now)
    }

    /// Ends a call of maintenance, and returns how long the work that is left may wait.
    pub(super) fn end_maintenance(&mut self, now: Instant) -> Option<Duration> {
        let failed = self.failed() > 0;
        let times = [self.maintenance.end(now, failed), self.next_expiry()].into_iter().flatten();
        let deferred = (self.deferred() > 0).then_some(Duration::ZERO);
        times.map(|at| at.saturating_duration_since(now)).chain(deferred).min()
    }

    fn slot(&self, vector: Vector) -> Option<&Slot> {
        self.slots.get(vector)
    }

    /// Starts the release delay of a freed vector, or releases it if there is no delay. Until the delay is over, a driver that requests
    /// the vector again causes no host call for it.
    fn expire(&mut self, vector: Vector) {
        match self.slot(vector) {
            Some(Slot::Held { .. }) if self.release_delay.is_zero() => self.release(vector),
            Some(Slot::Held { .. }) => {
                let now = Instant::now();
                let at = now.checked_add(self.release_delay).unwrap_or(now);
                self.owed.insert(vector, Later::Expires(at));
                self.maintenance.notify();
            }
            // Unbound for another cookie, and freed before it was bound again.
            None | Some(Slot::Idle { .. }) if self.cookies.contains_key(&vector) => {
                self.backend.release(vector)
            }
            _ => {}
        }
    }

    /// Releases a held vector.
    fn release(&mut self, vector: Vector) {
        if self.unbind(vector) {
            self.owed.remove(vector);
            self.backend.release(vector);
        }
    }

    /// Unbinds a held vector; true if the device had its eventfd and has it no more.
    fn unbind(&mut self, vector: Vector) -> bool {
        let is_held = matches!(self.slot(vector), Some(Slot::Held { .. }));
        let is_unbound = is_held && self.try_step(vector, |slot, means| slot.unbind(vector, means.backend));
        if is_unbound {
            self.count_unbind();
        }
        is_unbound
    }

    /// Makes a vector's interrupts wait; false if the host refuses to detach the vector.
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
