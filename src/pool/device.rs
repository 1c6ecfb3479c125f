//! The device behind a pool: its backend, and who has which of its vectors.
//!
//! Owns the backend. Invariant: a vector has at most one holder, only a held one has an eventfd, and the backend's
//! window is open while any holder's is. Who gets a vector is decided in `alloc.rs`. Used under the pool's lock; calls nobody but the backend, so nothing can
//! come back to it.

mod alloc;

use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::host_vector::HostVector;
use super::report::{Counters, Holding, HostVectorReport, PoolReport};
use crate::backend::{Backend, BackendError, Capabilities, Cookie, Programming};
use crate::counter::Increment;

/// A window's name in its pool; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowId(u64);

/// One of the device's vectors.
#[derive(Clone, Copy, Debug)]
struct Entry {
    holding: Holding,
    /// The window that it is reserved for.
    window: Option<WindowId>,
    /// A holder has given it a cookie.
    has_cookie: bool,
}

/// The device, its vectors and their holders.
pub(super) struct Device {
    backend: Box<dyn Backend>,
    capabilities: Capabilities,
    entries: Vec<Entry>,
    /// The backend's window is open.
    open: bool,
    /// EventfdOwner' windows that are.
    users: u32,
    /// Why the backend's window is open though nobody's is.
    close_error: Option<BackendError>,
    windows: u64,
    counters: Counters,
}

impl Device {
    pub(super) fn new(backend: Box<dyn Backend>) -> Self {
        let capabilities = backend.capabilities();
        let entry = Entry { holding: Holding::Free, window: None, has_cookie: false };
        let entries = vec![entry; capabilities.vectors as usize];
        Self {
            backend,
            capabilities,
            entries,
            open: false,
            users: 0,
            close_error: None,
            windows: 0,
            counters: Counters::default(),
        }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Some holder's window is open.
    pub(super) fn is_in_use(&self) -> bool {
        self.users > 0
    }

    pub(super) fn is_held(&self, vector: HostVector) -> bool {
        matches!(self.holding(vector), Some(Holding::Held | Holding::Bound))
    }

    pub(super) fn is_bound(&self, vector: HostVector) -> bool {
        self.holding(vector) == Some(Holding::Bound)
    }

    /// A holder's window opens.
    pub(super) fn enter(&mut self) -> Result<(), BackendError> {
        self.turn_on()?;
        self.users.increment();
        Ok(())
    }

    /// A holder's window closes, with all its `vectors`. On failure [`Device::is_bound`] tells what is left.
    pub(super) fn leave(&mut self, vectors: &[HostVector]) -> Result<(), BackendError> {
        if self.users == 1 {
            self.turn_off()?;
        } else {
            for vector in vectors {
                self.unbind(*vector)?;
            }
        }
        self.users = self.users.saturating_sub(1);
        Ok(())
    }

    /// A holder has gone whose window could not be closed: its vectors are given back already.
    pub(super) fn abandon(&mut self) {
        self.users = self.users.saturating_sub(1);
        self.rest();
    }

    pub(super) fn bind(&mut self, vector: HostVector, eventfd: &EventFd) -> Result<(), BackendError> {
        self.backend.bind(vector.of_device(), eventfd).inspect_err(|_| self.counters.fail())?;
        self.set(vector, Holding::Bound);
        Ok(())
    }

    /// A vector that is bound is so no more; one that is not stays as it is.
    pub(super) fn unbind(&mut self, vector: HostVector) -> Result<(), BackendError> {
        if matches!(self.holding(vector), Some(Holding::Bound | Holding::Orphaned)) {
            self.backend.unbind(vector.of_device()).inspect_err(|_| self.counters.fail())?;
            self.set(vector, Holding::Held);
        }
        Ok(())
    }

    /// The device's pending bits for 64 vectors. Those of vectors without an eventfd mean something.
    pub(super) fn pending(&mut self, group: u32) -> u64 {
        self.backend.pending(group)
    }

    /// Those of the pending bits that end with this process.
    pub(super) fn pending_to_save(&mut self, group: u32) -> u64 {
        self.backend.pending_to_save(group)
    }

    /// The device's pending bit for one.
    pub(super) fn is_pending(&mut self, vector: HostVector) -> bool {
        self.pending(vector.0 / 64).wrapping_shr(vector.0 % 64) & 1 != 0
    }

    /// Forgets what is pending in the backend itself for a vector that is not bound.
    pub(super) fn clear_pending(&mut self, HostVector(vector): HostVector) {
        self.backend.clear_pending(vector..vector.saturating_add(1));
    }

    /// The eventfd that the vector is about to be bound to.
    pub(super) fn eventfd(&mut self, vector: HostVector) -> io::Result<EventFd> {
        self.backend.eventfd(vector.of_device())
    }

    /// Whether the device still has the vector's message.
    pub(super) fn vector_programming(&mut self, vector: HostVector) -> Programming {
        self.backend.vector_programming(vector.of_device())
    }

    pub(super) fn set_cookie(
        &mut self,
        vector: HostVector,
        cookie: Option<Cookie>,
    ) -> Result<(), BackendError> {
        self.backend.set_cookie(vector.of_device(), cookie)?;
        if let Some(entry) = self.entries.get_mut(vector.0 as usize) {
            entry.has_cookie = cookie.is_some();
        }
        Ok(())
    }

    /// Tries again what the host has not taken back.
    pub(super) fn retry(&mut self) {
        for vector in (0..self.capabilities.vectors).map(HostVector) {
            if self.holding(vector) == Some(Holding::Orphaned) && self.unbind(vector).is_ok() {
                self.set(vector, Holding::Free);
            }
        }
        self.rest();
    }

    /// How many steps wait for another try.
    pub(super) fn failed_steps(&self) -> usize {
        let orphans = self.entries.iter().filter(|entry| entry.holding == Holding::Orphaned).count();
        orphans.saturating_add(self.close_error.is_some().into())
    }

    pub(super) fn report(&mut self) -> PoolReport {
        let pending = self.pending_groups();
        let mut vectors = Vec::new();
        for (index, entry) in (0..).zip(&self.entries) {
            let vector = HostVector(index);
            let stray = entry.holding == Holding::Free && is_set(&pending, index);
            if entry.holding != Holding::Free || entry.window.is_some() || stray {
                let reserved = entry.window.is_some();
                vectors.push(HostVectorReport { vector, holding: entry.holding, reserved, stray });
            }
        }
        PoolReport {
            capabilities: self.capabilities,
            open: self.open,
            windows_open: self.users,
            error: self.close_error.as_ref().map(ToString::to_string),
            counters: self.counters,
            vectors,
        }
    }

    /// Every pending bit of the device.
    fn pending_groups(&mut self) -> Vec<u64> {
        (0..self.capabilities.vectors.div_ceil(64)).map(|group| self.pending(group)).collect()
    }

    fn turn_on(&mut self) -> Result<(), BackendError> {
        if !self.open {
            self.backend.open(self.capabilities.vectors).inspect_err(|_| self.counters.fail())?;
            self.counters.opens.increment();
        }
        self.open = true;
        self.close_error = None;
        Ok(())
    }

    fn turn_off(&mut self) -> Result<(), BackendError> {
        if let Err(error) = self.backend.close() {
            self.counters.fail();
            if let BackendError::Close { unbound, .. } = &error {
                unbound.iter().for_each(|vector| self.set_unbound(HostVector(vector.0)));
            }
            return Err(error);
        }
        self.counters.closes.increment();
        self.open = false;
        self.close_error = None;
        (0..self.capabilities.vectors).map(HostVector).for_each(|vector| self.set_unbound(vector));
        Ok(())
    }

    /// Nothing is left on where nobody needs it.
    fn rest(&mut self) {
        if self.users == 0 && self.open {
            self.close_error = self.turn_off().err();
        }
    }

    fn holding(&self, vector: HostVector) -> Option<Holding> {
        self.entries.get(vector.0 as usize).map(|entry| entry.holding)
    }

    /// The device has let go of a vector in a close.
    fn set_unbound(&mut self, vector: HostVector) {
        if let Some(entry) = self.entries.get_mut(vector.0 as usize) {
            entry.holding = match entry.holding {
                Holding::Bound => Holding::Held,
                Holding::Orphaned => Holding::Free,
                other => other,
            };
        }
    }

    fn set(&mut self, vector: HostVector, holding: Holding) {
        if let Some(entry) = self.entries.get_mut(vector.0 as usize) {
            entry.holding = holding;
        }
    }
}

fn is_set(pending: &[u64], vector: u32) -> bool {
    pending.get((vector / 64) as usize).is_some_and(|bits| bits.wrapping_shr(vector % 64) & 1 != 0)
}

/// The last holder and the last pool have gone.
impl Drop for Device {
    fn drop(&mut self) {
        if self.open {
            // Where the host refuses, the kernel does it when the device's descriptor goes.
            let _ = self.turn_off();
        }
    }
}
