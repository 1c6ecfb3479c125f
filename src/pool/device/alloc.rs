//! Who gets which vector: what is set aside, given out, and taken back.

use std::ops::Range;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Device, Entry, WindowId};
use crate::backend::BackendError;
use crate::counter::Increment;
use crate::pool::error::PoolError;
use crate::pool::host_vector::HostVector;
use crate::pool::report::Holding;

impl Device {
    /// Sets vectors aside, all or none.
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

    /// Ends a reservation. What is held of it stays its holders'.
    pub(in crate::pool) fn unreserve(&mut self, id: WindowId) {
        for entry in self.entries.iter_mut().filter(|entry| entry.window == Some(id)) {
            entry.window = None;
        }
    }

    /// Gives one vector to a holder, cleared of what waits for it.
    pub(in crate::pool) fn claim(
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
        // Not the holder's yet: a vector that cannot be cleared is nobody's.
        self.set(asked, Holding::Free);
        self.clear(asked).map_err(|source| PoolError::Unclean { asked, source })?;
        self.set(asked, Holding::Held);
        self.counters.claims.increment();
        Ok(())
    }

    /// Gives the first of some vectors that is free. Those that cost the host nothing go first.
    pub(in crate::pool) fn claim_any(
        &mut self,
        among: Range<u32>,
        window: Option<WindowId>,
        except: Option<HostVector>,
    ) -> Result<HostVector, PoolError> {
        // Those of 64 vectors, read where one of them is free.
        let mut pending = None;
        let mut unclean = Vec::new();
        for vector in among.start..among.end.min(self.capabilities.vectors) {
            let asked = HostVector(vector);
            let Some(&entry) = self.entries.get(vector as usize) else { break };
            if entry.window != window || Some(asked) == except {
                continue;
            }
            match entry.holding {
                Holding::Held | Holding::Bound => {}
                Holding::Free if !entry.has_cookie && !self.is_pending_in(&mut pending, asked) => {
                    return self.claim(asked, window).map(|()| asked);
                }
                Holding::Free | Holding::Orphaned => unclean.push(asked),
            }
        }
        let mut refused = PoolError::Exhausted { among };
        for asked in unclean {
            match self.claim(asked, window) {
                Ok(()) => return Ok(asked),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// The device's pending bit for a vector, out of the last group that was read where it is in that.
    fn is_pending_in(&mut self, last: &mut Option<(u32, u64)>, HostVector(vector): HostVector) -> bool {
        let bits = match *last {
            Some((group, bits)) if group == vector / 64 => bits,
            _ => self.pending(vector / 64),
        };
        *last = Some((vector / 64, bits));
        bits.wrapping_shr(vector % 64) & 1 != 0
    }

    /// Takes a vector back from its holder. One that the host does not take back is nobody's, and tried again.
    pub(in crate::pool) fn release(&mut self, vector: HostVector) {
        let given_back = match self.holding(vector) {
            Some(Holding::Bound) => self.unbind(vector).is_ok(),
            _ => true,
        };
        self.set(vector, if given_back { Holding::Free } else { Holding::Orphaned });
    }

    /// Takes away what is left of earlier holders: what they stored with the vector, and an interrupt that waits. A device that
    /// does not forget the interrupt by itself is given an eventfd that takes it and is dropped.
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
        let nobodys = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
            .map_err(|source| BackendError::Bind { vector: vector.of_device(), source })?;
        self.turn_on()?;
        let taken = self.bind(vector, &nobodys).and_then(|()| {
            self.counters.strays.increment();
            // Where the host does not take it back it stays bound, to what nobody reads.
            self.set(vector, Holding::Orphaned);
            self.unbind(vector)
        });
        self.rest();
        taken
    }

    fn entry(&self, asked: HostVector) -> Result<&Entry, PoolError> {
        let vectors = self.capabilities.vectors;
        self.entries.get(asked.0 as usize).ok_or(PoolError::OutOfRange { asked, vectors })
    }
}
