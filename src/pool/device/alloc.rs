//! Reserving, allocating and freeing the device's vectors.

use std::ops::Range;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Device, Entry, WindowId};
use crate::backend::BackendError;
use crate::counter::Increment;
use crate::pool::error::PoolError;
use crate::pool::report::Holding;
use crate::pool::vector_map::HostVector;

impl Device {
    /// Reserves all vectors of a range, or none.
    pub(in crate::pool) fn reserve(&mut self, vectors: Range<u32>) -> Result<WindowId, PoolError> {
        for asked in vectors.clone().map(HostVector) {
            match self.entry(asked)? {
                Entry { window: Some(_), .. } => return Err(PoolError::Reserved { asked }),
                Entry { holding: Holding::Held | Holding::Bound, .. } => {
                    return Err(PoolError::InUse { asked });
                }
                _ => {}
            }
        }
        self.windows.increment();
        let id = WindowId(self.windows);
        for vector in vectors {
            if let Some(entry) = self.entries.get_mut(vector as usize) {
                entry.window = Some(id);
            }
        }
        Ok(id)
    }

    /// Ends a reservation. Its allocated vectors stay allocated.
    pub(in crate::pool) fn unreserve(&mut self, id: WindowId) {
        for entry in self.entries.iter_mut().filter(|entry| entry.window == Some(id)) {
            entry.window = None;
        }
    }

    /// Allocates one vector, and clears its pending interrupt and its cookie.
    pub(in crate::pool) fn alloc_at(
        &mut self,
        asked: HostVector,
        window: Option<WindowId>,
    ) -> Result<(), PoolError> {
        let entry = self.entry(asked)?;
        if entry.window != window {
            return Err(PoolError::Reserved { asked });
        }
        match entry.holding {
            Holding::Held | Holding::Bound => return Err(PoolError::InUse { asked }),
            Holding::Orphaned => {
                self.unbind(asked).map_err(|source| PoolError::Orphaned { asked, source })?;
            }
            Holding::Free => {}
        }
        // A vector that cannot be cleared stays free.
        self.set(asked, Holding::Free);
        self.clear(asked).map_err(|source| PoolError::Unclean { asked, source })?;
        self.set(asked, Holding::Held);
        self.counters.claims.increment();
        Ok(())
    }

    /// Allocates the first free vector of a range. A vector that has to be cleared is taken only if there is no other.
    pub(in crate::pool) fn alloc_any(
        &mut self,
        range: Range<u32>,
        window: Option<WindowId>,
        except: Option<HostVector>,
    ) -> Result<HostVector, PoolError> {
        // The last group of pending bits that was read.
        let mut pending = None;
        let mut unclean = Vec::new();
        for vector in range.start..range.end.min(self.capabilities.vectors) {
            let asked = HostVector(vector);
            let Some(&entry) = self.entries.get(vector as usize) else { break };
            if entry.window != window || Some(asked) == except {
                continue;
            }
            match entry.holding {
                Holding::Held | Holding::Bound => {}
                Holding::Free if !entry.has_cookie && !self.is_pending_in(&mut pending, asked) => {
                    return self.alloc_at(asked, window).map(|()| asked);
                }
                Holding::Free | Holding::Orphaned => unclean.push(asked),
            }
        }
        let mut refused = PoolError::Exhausted { range };
        for asked in unclean {
            match self.alloc_at(asked, window) {
                Ok(()) => return Ok(asked),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// The device's pending bit of a vector. It reads the device only if the vector is not in the last group.
    fn is_pending_in(&mut self, last: &mut Option<(u32, u64)>, HostVector(vector): HostVector) -> bool {
        let bits = match *last {
            Some((group, bits)) if group == vector / 64 => bits,
            _ => self.pending(vector / 64),
        };
        *last = Some((vector / 64, bits));
        bits.wrapping_shr(vector % 64) & 1 != 0
    }

    /// Frees a vector whose handle is dropped. If the host refuses to unbind it, it is orphaned and tried again.
    pub(in crate::pool) fn free(&mut self, vector: HostVector) {
        let is_unbound = match self.holding(vector) {
            Some(Holding::Bound) => self.unbind(vector).is_ok(),
            _ => true,
        };
        self.set(vector, if is_unbound { Holding::Free } else { Holding::Orphaned });
    }

    /// Clears what earlier owners have left: the cookie and a pending interrupt. If the backend cannot clear the pending bit, the
    /// vector is bound for a moment to an eventfd that nobody reads.
    fn clear(&mut self, vector: HostVector) -> Result<(), BackendError> {
        if self.entries.get(vector.0 as usize).is_some_and(|entry| entry.has_cookie) {
            self.set_cookie(vector, None)?;
        }
        if !self.is_pending(vector) {
            return Ok(());
        }
        self.clear_pending(vector);
        if !self.is_pending(vector) {
            self.counters.strays.increment();
            return Ok(());
        }
        let unread = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
            .map_err(|source| BackendError::Bind { vector: vector.of_device(), source })?;
        self.open()?;
        let cleared = self.bind(vector, &unread).and_then(|()| {
            self.counters.strays.increment();
            // If the host refuses to unbind it, it stays bound to that eventfd.
            self.set(vector, Holding::Orphaned);
            self.unbind(vector)
        });
        self.close_if_unused();
        cleared
    }

    fn entry(&self, asked: HostVector) -> Result<&Entry, PoolError> {
        let vectors = self.capabilities.vectors;
        self.entries.get(asked.0 as usize).ok_or(PoolError::OutOfRange { asked, vectors })
    }
}
