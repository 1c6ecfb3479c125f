//! The host's side of one device: its backend, its vectors' states, and what the host refused.
//!
//! Owned by one domain and used under its lock. A sync closes or opens the window (`window.rs`), takes vectors
//! down (here), and brings vectors up (`raise.rs`), some of them later (`growth.rs`), each by its steps (`step.rs`); what waits
//! is asked in `pending.rs`, and all is held in `suspend.rs`.

mod growth;
mod pending;
mod raise;
mod step;
mod suspend;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::DomainError;
use super::report::Counters;
use super::slot::Slot;
use super::slots::Slots;
use crate::backend::{Backend, BackendError, Cookie};
use crate::budget::Budget;
use crate::delivery::{Delivery, Store, Vector};
use crate::domain::{BusMaster, REQUESTS};
use crate::interrupt::{Interrupt, Target};
use crate::router::Router;
use growth::Call;

/// What the host has for the device.
pub(super) struct Host {
    backend: Box<dyn Backend>,
    /// So many vectors may be bound: what the capability was turned on for, or 0 while it is off.
    window: u32,
    /// No vector is brought up.
    suspended: bool,
    /// None is either while the bus does not let the device signal.
    bus_master: BusMaster,
    slots: Slots,
    /// What the host refused and should be tried again.
    unsettled: BTreeMap<Vector, DomainError>,
    /// The host refused to turn the capability on or off.
    window_error: Option<DomainError>,
    /// Freed by the guest, and given back to the host at this time unless the guest wants them again.
    lingering: BTreeMap<Vector, Instant>,
    /// How long they linger.
    pub(super) linger: Duration,
    /// What userspace watches for the vectors that it delivers, where an embedder does so.
    pub(super) relay: Option<Arc<OwnedFd>>,
    /// What userspace watches for vectors that wait for a host vector, where an embedder requests those on a thread.
    growth: Option<Arc<OwnedFd>>,
    growing: BTreeSet<Vector>,
    /// What the backend was told that vectors carry, of those that carry something.
    cookies: BTreeMap<Vector, Cookie>,
    /// How many host vectors there may be.
    pub(super) budget: Arc<Budget>,
    bound: u32,
    /// The device's side has refused the last host vector that it was asked for.
    is_refusing: bool,
    counters: Counters,
    /// Vectors on their way up, and those of them for which the host is short: kept between calls for their memory only.
    rising: Vec<(Vector, Interrupt)>,
    short: Vec<(Vector, Interrupt)>,
}

impl Host {
    pub(super) fn new(vectors: u32, backend: Box<dyn Backend>) -> Self {
        Self {
            backend,
            window: 0,
            suspended: false,
            bus_master: BusMaster::Enabled,
            slots: Slots::new(vectors as usize),
            unsettled: BTreeMap::new(),
            window_error: None,
            lingering: BTreeMap::new(),
            linger: Duration::ZERO,
            relay: None,
            growth: None,
            growing: BTreeSet::new(),
            cookies: BTreeMap::new(),
            budget: Budget::of_vm(None),
            bound: 0,
            is_refusing: false,
            counters: Counters::default(),
            rising: Vec::new(),
            short: Vec::new(),
        }
    }

    /// Brings vectors to what the store says, but for those that may [grow](Host::grow) later: a guest's access has touched
    /// them.
    pub(super) fn follow(
        &mut self,
        router: &dyn Router,
        store: &dyn Store,
        touched: impl Iterator<Item = Vector>,
    ) -> Call {
        self.lower(router, store, touched);
        let call = self.postpone();
        self.raise(router);
        call
    }

    /// Brings vectors to what the store says.
    pub(super) fn settle(
        &mut self,
        router: &dyn Router,
        store: &dyn Store,
        vectors: impl Iterator<Item = Vector>,
    ) {
        self.lower(router, store, vectors);
        self.raise(router);
    }

    /// Closes or opens the window, takes vectors down as far as they should be, and notes what should rise.
    fn lower(&mut self, router: &dyn Router, store: &dyn Store, touched: impl Iterator<Item = Vector>) {
        if !(self.rising.is_empty() && self.short.is_empty()) {
            self.settle_left(router, store);
        }
        let vectors = store.vectors();
        // The host may have refused to open the window for earlier touches.
        let missed = self.window_error.is_some();
        let capacity = self.slots.capacity() as u32;
        // MSI's block grows only as a whole: off, and on for more.
        if vectors == 0 || vectors > self.window {
            self.close(router);
        }
        if vectors > 0 && self.open(vectors) {
            let mut aim = |vector| self.aim(vector, store, router);
            if missed {
                // Those too that the guest may not use any more, and the host has kept.
                (0..capacity).map(Vector).for_each(&mut aim);
            } else {
                touched.for_each(&mut aim);
            }
        }
    }

    /// An embedder's code has panicked before these had risen. What they should be may be something else by now. They rise
    /// before anything else is looked at, as that may turn the capability off.
    #[cold]
    fn settle_left(&mut self, router: &dyn Router, store: &dyn Store) {
        let left: Vec<Vector> = self.rising.drain(..).map(|(vector, _)| vector).collect();
        self.short.clear();
        self.settle(router, store, left.into_iter());
    }

    /// Gives some vectors back to the host that have lingered long enough; true where others wait for that.
    pub(super) fn give_back(&mut self, now: Instant) -> bool {
        // Where somebody waits for a host vector that lingers here, that is now.
        let is_short = self.budget.is_short();
        let has_lingered =
            |(vector, until): (&Vector, &Instant)| (is_short || *until <= now).then_some(*vector);
        let mut lingered = self.lingering.iter().filter_map(has_lingered);
        let some: Vec<_> = lingered.by_ref().take(REQUESTS).collect();
        let others_wait = lingered.next().is_some();
        some.into_iter().for_each(|vector| self.free(vector));
        others_wait
    }

    /// Tries again what the host refused, those first that userspace delivers most often. Host vectors are requested where
    /// they were at first: each may take as long as the host does.
    pub(super) fn retry(&mut self, router: &dyn Router, store: &dyn Store) -> Call {
        let mut vectors: Vec<Vector> = match self.window_error {
            // At least one, so that a window that could not be closed is tried again too.
            Some(_) => (0..store.vectors().max(1)).map(Vector).collect(),
            None => self.unsettled.keys().copied().collect(),
        };
        if vectors.is_empty() {
            return Call::default();
        }
        vectors.sort_by_key(|vector| std::cmp::Reverse(self.slot(*vector).map_or(0, Slot::relayed)));
        self.follow(router, store, vectors.into_iter())
    }

    /// How many steps wait for another try.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled.len().saturating_add(self.window_error.is_some().into())
    }

    /// How often userspace has delivered the vector that it delivers most.
    pub(super) fn busiest(&self) -> u32 {
        let relayed = |vector: &Vector| self.slot(*vector).map_or(0, Slot::relayed);
        self.unsettled.keys().map(relayed).max().unwrap_or(0)
    }

    /// How many vectors linger.
    pub(super) fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// Takes a vector down as far as it should be, and notes the message that it should rise to.
    fn aim(&mut self, vector: Vector, store: &dyn Store, router: &dyn Router) {
        if vector.index() >= self.slots.capacity() {
            return;
        }
        // Most often none waits, and then to look this one up is what would cost.
        if !(self.unsettled.is_empty() && self.lingering.is_empty() && self.growing.is_empty()) {
            self.forget_waiting(vector);
        }
        let (delivery, cookie) = store.answer(vector);
        match delivery {
            Delivery::Off => {
                self.hold(vector, router);
                self.let_linger(vector);
            }
            Delivery::Held => {
                self.hold(vector, router);
            }
            Delivery::Live(_) if self.suspended || self.bus_master == BusMaster::Disabled => {
                self.hold(vector, router);
            }
            Delivery::Live(message) => match router.translate(message) {
                Ok(Target::Memory(_)) => {
                    self.hold(vector, router);
                }
                Ok(Target::Interrupt(message)) => {
                    if self.carry(vector, cookie, router) {
                        self.aim_at(vector, message, router);
                    }
                }
                // The guest's doing: nothing to try again before the guest has changed something.
                Err(refusal) => {
                    self.hold(vector, router);
                    self.counters.count(refusal);
                }
            },
        }
    }

    /// A vector that is aimed at waits for nothing.
    #[cold]
    fn forget_waiting(&mut self, vector: Vector) {
        self.unsettled.remove(&vector);
        self.lingering.remove(&vector);
        self.growing.remove(&vector);
    }

    /// Has a vector's interrupts carry what they should from now on; true where they do. One that is bound gets
    /// another eventfd for it, and nothing that waits is lost meanwhile.
    fn carry(&mut self, vector: Vector, cookie: Option<Cookie>, router: &dyn Router) -> bool {
        self.cookies.get(&vector).copied() == cookie || self.change_cookie(vector, cookie, router)
    }

    #[cold]
    fn change_cookie(&mut self, vector: Vector, cookie: Option<Cookie>, router: &dyn Router) -> bool {
        self.hold(vector, router);
        self.free(vector);
        if !matches!(self.slot(vector), None | Some(Slot::Idle { .. })) {
            // The host did not take it back: the vector is tried again, by what it carried before until then.
            return false;
        }
        match (self.backend.set_cookie(vector, cookie), cookie) {
            (Ok(()), Some(cookie)) => drop(self.cookies.insert(vector, cookie)),
            (Ok(()), None) => drop(self.cookies.remove(&vector)),
            // Nothing to try again before the guest has changed something.
            (Err(BackendError::NoCookies { .. }), _) => {
                self.counters.refused_cookies = self.counters.refused_cookies.saturating_add(1);
                return false;
            }
            (Err(error), _) => {
                self.leave_unsettled(vector, error.into());
                return false;
            }
        }
        true
    }

    fn aim_at(&mut self, vector: Vector, message: Interrupt, router: &dyn Router) {
        match self.slot(vector) {
            Some(Slot::Live { route, .. }) if route.message() == message => {}
            // It stays as it is unless there is a route for it by now.
            Some(Slot::Relayed { message: relayed, .. }) if *relayed == message => {
                self.rising.push((vector, message));
            }
            // Where the host refuses to let go of the old message, a new one has to wait.
            _ => {
                if self.hold(vector, router) {
                    self.rising.push((vector, message));
                }
            }
        }
    }

    fn slot(&self, vector: Vector) -> Option<&Slot> {
        self.slots.get(vector)
    }

    /// A freed vector keeps its host vector for a while: a driver that asks for it again pays nothing.
    fn let_linger(&mut self, vector: Vector) {
        match self.slot(vector) {
            Some(Slot::Held { .. }) if self.linger.is_zero() => self.free(vector),
            Some(Slot::Held { .. }) => {
                let now = Instant::now();
                self.lingering.insert(vector, now.checked_add(self.linger).unwrap_or(now));
            }
            _ => {}
        }
    }

    /// Gives a held vector back to the host.
    fn free(&mut self, vector: Vector) {
        self.lingering.remove(&vector);
        if matches!(self.slot(vector), Some(Slot::Held { .. }))
            && self.try_step(vector, |slot, means| slot.unbind(vector, means.backend))
        {
            self.count_given_back();
        }
    }

    /// Lets a vector's interrupts wait; true where they do.
    fn hold(&mut self, vector: Vector, router: &dyn Router) -> bool {
        match self.slot(vector) {
            None | Some(Slot::Idle { .. } | Slot::Held { .. }) => true,
            Some(Slot::Live { .. } | Slot::Relayed { .. } | Slot::Ending { .. }) => {
                self.try_step(vector, |slot, means| slot.hold(router, means.relay))
            }
        }
    }
}
