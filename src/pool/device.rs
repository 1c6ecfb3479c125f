//! The device of a pool: its backend, and the state of each of its vectors.
//!
//! Invariant: a vector has at most one handle, only a vector with a handle is bound to a function's eventfd, and the backend's window
//! is open while a function's is. `alloc.rs` allocates and frees the vectors. Locking: used under the pool's lock. It calls only the
//! backend.

mod alloc;

use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::report::{Counters, Holding, HostVectorReport, PoolReport};
use super::vector_map::HostVector;
use crate::backend::{Backend, BackendError, Capabilities, Cookie, Programming};
use crate::counter::Increment;

/// The ID of a reservation. It is not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowId(u64);

/// One of the device's vectors.
#[derive(Clone, Copy, Debug)]
struct Entry {
    holding: Holding,
    /// The reservation that it belongs to.
    window: Option<WindowId>,
    /// A handle has set its cookie.
    has_cookie: bool,
}

/// The device and its vectors.
pub(super) struct Device {
    backend: Box<dyn Backend>,
    capabilities: Capabilities,
    entries: Vec<Entry>,
    /// The device's capability is enabled in the host.
    is_open: bool,
    /// How many functions have it enabled.
    open_functions: u32,
    /// The host has refused to disable the capability, although no function has it enabled.
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
            is_open: false,
            open_functions: 0,
            close_error: None,
            windows: 0,
            counters: Counters::default(),
        }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Whether a function has the capability enabled.
    pub(super) fn is_in_use(&self) -> bool {
        self.open_functions > 0
    }

    pub(super) fn is_allocated(&self, vector: HostVector) -> bool {
        matches!(self.holding(vector), Some(Holding::Held | Holding::Bound))
    }

    pub(super) fn is_bound(&self, vector: HostVector) -> bool {
        self.holding(vector) == Some(Holding::Bound)
    }

    /// A function enables the capability.
    pub(super) fn open_function(&mut self) -> Result<(), BackendError> {
        self.open()?;
        self.open_functions.increment();
        Ok(())
    }

    /// A function that has `vectors` disables the capability. If the host refuses, some vectors may still be bound: see
    /// [`Device::is_bound`].
    pub(super) fn close_function(&mut self, vectors: &[HostVector]) -> Result<(), BackendError> {
        if self.open_functions == 1 {
            self.close()?;
        } else {
            for vector in vectors {
                self.unbind(*vector)?;
            }
        }
        self.open_functions = self.open_functions.saturating_sub(1);
        Ok(())
    }

    /// A function is dropped for which [`Device::close_function`] has failed. Its handles are dropped already.
    pub(super) fn forget_function(&mut self) {
        self.open_functions = self.open_functions.saturating_sub(1);
        self.close_if_unused();
    }

    pub(super) fn bind(&mut self, vector: HostVector, eventfd: &EventFd) -> Result<(), BackendError> {
        self.backend.bind(vector.of_device(), eventfd).inspect_err(|_| self.counters.fail())?;
        self.set(vector, Holding::Bound);
        Ok(())
    }

    /// Unbinds the vector if it is bound.
    pub(super) fn unbind(&mut self, vector: HostVector) -> Result<(), BackendError> {
        if matches!(self.holding(vector), Some(Holding::Bound | Holding::Orphaned)) {
            self.backend.unbind(vector.of_device()).inspect_err(|_| self.counters.fail())?;
            self.set(vector, Holding::Held);
        }
        Ok(())
    }

    /// The device's pending bits of 64 vectors. The bit of a bound vector has no meaning.
    pub(super) fn pending(&mut self, group: u32) -> u64 {
        self.backend.pending(group)
    }

    /// The pending bits that only this process has.
    pub(super) fn pending_to_save(&mut self, group: u32) -> u64 {
        self.backend.pending_to_save(group)
    }

    /// The device's pending bit of one vector.
    pub(super) fn is_pending(&mut self, vector: HostVector) -> bool {
        self.pending(vector.0 / 64).wrapping_shr(vector.0 % 64) & 1 != 0
    }

    /// Clears the pending bit that the backend itself keeps for an unbound vector.
    pub(super) fn clear_pending(&mut self, HostVector(vector): HostVector) {
        self.backend.clear_pending(vector..vector.saturating_add(1));
    }

    /// The eventfd for the next bind of the vector.
    pub(super) fn eventfd(&mut self, vector: HostVector) -> io::Result<EventFd> {
        self.backend.eventfd(vector.of_device())
    }

    /// Whether the device still has the message that the host programmed.
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

    /// Tries the refused steps again.
    pub(super) fn retry(&mut self) {
        for vector in (0..self.capabilities.vectors).map(HostVector) {
            if self.holding(vector) == Some(Holding::Orphaned) && self.unbind(vector).is_ok() {
                self.set(vector, Holding::Free);
            }
        }
        self.close_if_unused();
    }

    /// How many refused steps are left.
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
            open: self.is_open,
            windows_open: self.open_functions,
            error: self.close_error.as_ref().map(ToString::to_string),
            counters: self.counters,
            vectors,
        }
    }

    /// All pending bits of the device.
    fn pending_groups(&mut self) -> Vec<u64> {
        (0..self.capabilities.vectors.div_ceil(64)).map(|group| self.pending(group)).collect()
    }

    fn open(&mut self) -> Result<(), BackendError> {
        if !self.is_open {
            self.backend.open(self.capabilities.vectors).inspect_err(|_| self.counters.fail())?;
            self.counters.opens.increment();
        }
        self.is_open = true;
        self.close_error = None;
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        if let Err(error) = self.backend.close() {
            self.counters.fail();
            if let BackendError::Close { unbound, .. } = &error {
                unbound.iter().for_each(|vector| self.set_unbound(HostVector(vector.0)));
            }
            return Err(error);
        }
        self.counters.closes.increment();
        self.is_open = false;
        self.close_error = None;
        (0..self.capabilities.vectors).map(HostVector).for_each(|vector| self.set_unbound(vector));
        Ok(())
    }

    fn close_if_unused(&mut self) {
        if self.open_functions == 0 && self.is_open {
            self.close_error = self.close().err();
        }
    }

    fn holding(&self, vector: HostVector) -> Option<Holding> {
        self.entries.get(vector.0 as usize).map(|entry| entry.holding)
    }

    /// Records that closing the device has unbound a vector.
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

impl Drop for Device {
    fn drop(&mut self) {
        if self.is_open {
            // If the host refuses, the kernel does it when the device's descriptor is closed.
            let _ = self.close();
        }
    }
}
