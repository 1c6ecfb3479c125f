//! The host's side of one device: its backend, its vectors' states, and what the host refused.
//!
//! Owned by one domain and used under its lock. Everything that a sync does is here, in order: close or open
//! the window, take vectors down, publish all messages by one commit, bring vectors up.

use std::collections::BTreeMap;
use std::mem;

use super::error::DomainError;
use super::report::{Counters, DomainReport, VectorReport};
use super::slot::{Slot, Step};
use crate::backend::Backend;
use crate::delivery::{Delivery, Store, Vector};
use crate::message::MsiMessage;
use crate::router::{Route, Router, RouterError};
use crate::signalled::signalled;

/// What the host has for the device.
#[derive(Debug)]
pub(super) struct Host<B> {
    backend: B,
    open: bool,
    /// Vectors beyond its end are unused. It grows to the highest vector that was ever bound.
    slots: Vec<Slot>,
    capacity: usize,
    /// What the host refused and should be tried again.
    unsettled: BTreeMap<Vector, DomainError>,
    /// The host refused to turn the capability on or off.
    window_error: Option<DomainError>,
    bound: u32,
    counters: Counters,
    /// Vectors on their way up, and their routes: kept between calls for their memory only.
    rising: Vec<(Vector, MsiMessage)>,
    messages: Vec<MsiMessage>,
    routes: Vec<Result<Route, RouterError>>,
}

impl<B: Backend> Host<B> {
    pub(super) fn new(vectors: u32, backend: B) -> Self {
        Self {
            backend,
            open: false,
            slots: Vec::new(),
            capacity: vectors as usize,
            unsettled: BTreeMap::new(),
            window_error: None,
            bound: 0,
            counters: Counters::default(),
            rising: Vec::new(),
            messages: Vec::new(),
            routes: Vec::new(),
        }
    }

    /// Brings vectors to what the store says.
    pub(super) fn settle(
        &mut self,
        router: &impl Router,
        store: &impl Store,
        touched: impl Iterator<Item = Vector>,
    ) {
        let vectors = store.vectors();
        let was_open = self.open;
        if vectors == 0 {
            self.close(router);
        } else if self.open(vectors) {
            let mut aim = |vector| self.aim(vector, store.delivery(vector), router);
            if was_open {
                touched.for_each(&mut aim);
            } else {
                // All, because the host may have refused to open the window for earlier touches.
                (0..vectors).map(Vector).for_each(&mut aim);
            }
            self.raise(router);
        }
    }

    /// Takes a vector down as far as it should be, and notes the message that it should rise to.
    fn aim(&mut self, vector: Vector, delivery: Delivery, router: &impl Router) {
        if vector.index() >= self.capacity {
            return;
        }
        self.unsettled.remove(&vector);
        match delivery {
            Delivery::Off => self.free(vector, router),
            Delivery::Held => self.hold(vector, router),
            Delivery::Live(message) if self.message(vector) == Some(message) => {}
            Delivery::Live(message) => {
                self.hold(vector, router);
                self.rising.push((vector, message));
            }
        }
    }

    fn message(&self, vector: Vector) -> Option<MsiMessage> {
        self.slots.get(vector.index()).and_then(Slot::message)
    }

    /// Turns the capability on in the host.
    fn open(&mut self, vectors: u32) -> bool {
        if self.open {
            self.window_error = None;
        } else {
            let opened = self.backend.open(vectors);
            self.open = opened.is_ok();
            self.counters.opens = self.counters.opens.saturating_add(opened.is_ok().into());
            self.window_error = opened.err().map(DomainError::from);
            self.count_failure(self.window_error.is_some());
        }
        self.open
    }

    /// Turns the capability off in the host: detach all, give the host everything back in one call, and only
    /// then look at what waits in the eventfds, and close them.
    pub(super) fn close(&mut self, router: &impl Router) {
        if !self.open {
            self.window_error = None;
            return;
        }
        self.unsettled.clear();
        for index in 0..self.slots.len() {
            self.hold(Vector(index as u32), router);
        }
        match self.backend.close() {
            Ok(()) => {
                self.open = false;
                self.window_error = None;
                self.counters.closes = self.counters.closes.saturating_add(1);
                self.bound = 0;
                for slot in &mut self.slots {
                    *slot = mem::replace(slot, Slot::UNUSED).shut(router);
                }
            }
            Err(error) => {
                self.window_error = Some(error.into());
                self.count_failure(true);
            }
        }
    }

    /// Forgets every interrupt that waits here.
    pub(super) fn clear_pending(&mut self) {
        self.slots.iter_mut().for_each(Slot::clear_pending);
    }

    /// How many steps wait for another try.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled.len().saturating_add(self.window_error.is_some().into())
    }

    /// The vectors to try again: all, where the window itself could not be opened or closed.
    pub(super) fn unsettled_vectors(&self, store: &impl Store) -> Vec<Vector> {
        match self.window_error {
            // At least one, so that a window that could not be closed is tried again too.
            Some(_) => (0..store.vectors().max(1)).map(Vector).collect(),
            None => self.unsettled.keys().copied().collect(),
        }
    }

    fn free(&mut self, vector: Vector, router: &impl Router) {
        self.hold(vector, router);
        let Self { backend, slots, .. } = self;
        let Some(slot @ Slot::Held { .. }) = slots.get_mut(vector.index()) else { return };
        let step = mem::replace(slot, Slot::UNUSED).unbind(vector, backend);
        if self.take(vector, step) {
            self.bound = self.bound.saturating_sub(1);
            self.counters.unbinds = self.counters.unbinds.saturating_add(1);
        }
    }

    fn hold(&mut self, vector: Vector, router: &impl Router) {
        let Some(slot @ Slot::Live { .. }) = self.slots.get_mut(vector.index()) else { return };
        let step = mem::replace(slot, Slot::UNUSED).hold(router);
        if self.take(vector, step) {
            self.counters.detaches = self.counters.detaches.saturating_add(1);
        }
    }

    /// Routes first, by one commit for all; then the host vectors; the irqfds last.
    fn raise(&mut self, router: &impl Router) {
        if self.rising.is_empty() {
            return;
        }
        let mut messages = mem::take(&mut self.messages);
        let mut routes = mem::take(&mut self.routes);
        let mut rising = mem::take(&mut self.rising);
        messages.extend(rising.iter().map(|(_, message)| *message));
        router.publish(&messages, &mut routes);
        for ((vector, _), route) in rising.drain(..).zip(routes.drain(..)) {
            match route {
                Ok(route) => self.attach(vector, route, router),
                Err(RouterError::Invalid(_)) => {
                    self.counters.invalid_messages = self.counters.invalid_messages.saturating_add(1);
                }
                Err(error) => self.leave_unsettled(vector, error.into()),
            }
        }
        messages.clear();
        (self.messages, self.routes, self.rising) = (messages, routes, rising);
    }

    fn attach(&mut self, vector: Vector, route: Route, router: &impl Router) {
        let Self { backend, slots, .. } = self;
        if slots.len() <= vector.index() {
            slots.resize_with(vector.index().saturating_add(1), || Slot::UNUSED);
        }
        if let Some(slot @ Slot::Idle { .. }) = slots.get_mut(vector.index()) {
            let step = mem::replace(slot, Slot::UNUSED).bind(vector, backend);
            if self.take(vector, step) {
                self.bound = self.bound.saturating_add(1);
                self.counters.binds = self.counters.binds.saturating_add(1);
                self.counters.high_water = self.counters.high_water.max(self.bound);
            }
        }
        match self.slots.get_mut(vector.index()) {
            Some(slot @ Slot::Held { .. }) => {
                let step = mem::replace(slot, Slot::UNUSED).attach(route, router);
                if self.take(vector, step) {
                    self.counters.attaches = self.counters.attaches.saturating_add(1);
                }
            }
            _ => router.withdraw(route),
        }
    }

    /// Puts a vector where its step has left it; true where the step was taken.
    fn take(&mut self, vector: Vector, step: Step) -> bool {
        let (slot, error) = match step {
            Ok(slot) => (slot, None),
            Err((slot, error)) => (slot, Some(error)),
        };
        if let Some(place) = self.slots.get_mut(vector.index()) {
            *place = slot;
        }
        let taken = error.is_none();
        if let Some(error) = error {
            self.leave_unsettled(vector, error);
        }
        taken
    }

    fn leave_unsettled(&mut self, vector: Vector, error: DomainError) {
        self.count_failure(true);
        self.unsettled.insert(vector, error);
    }

    fn count_failure(&mut self, failed: bool) {
        self.counters.host_failures = self.counters.host_failures.saturating_add(failed.into());
    }

    pub(super) fn pending(&mut self, group: u32) -> u64 {
        let first = (group as usize).saturating_mul(64);
        let device = self.backend.pending(group);
        let slots = self.slots.get(first..).unwrap_or_default();
        let held = slots.iter().take(64).filter_map(|slot| match slot {
            Slot::Held { eventfd } => Some(eventfd),
            Slot::Idle { .. } | Slot::Live { .. } => None,
        });
        let mut held = signalled(held);
        let mut bits = 0;
        for index in 0..self.capacity.saturating_sub(first).min(64) {
            let bit = 1u64.wrapping_shl(index as u32);
            let pending = match slots.get(index).unwrap_or(&Slot::UNUSED) {
                Slot::Idle { latched } => *latched || device & bit != 0,
                Slot::Held { .. } => held.next().unwrap_or(true),
                Slot::Live { .. } => false,
            };
            bits |= if pending { bit } else { 0 };
        }
        bits
    }

    pub(super) fn report(&self) -> DomainReport {
        let vectors = self.slots.iter().enumerate().map(|(index, slot)| {
            let vector = Vector(index as u32);
            VectorReport::new(vector, slot, self.unsettled.get(&vector).map(ToString::to_string))
        });
        let live = self.slots.iter().filter(|slot| matches!(slot, Slot::Live { .. })).count();
        DomainReport {
            open: self.open,
            host_vectors: self.bound,
            live: live as u32,
            error: self.window_error.as_ref().map(ToString::to_string),
            counters: self.counters.clone(),
            vectors: vectors.filter(VectorReport::is_noteworthy).collect(),
        }
    }
}
