//! A logical function: vectors counted from 0 over host vectors of one or several devices, as a backend.
//!
//! Owns the handles of its vectors, and its window in each pool that they are of. Invariant: a vector is bound only
//! while its pool is entered. Locking: none of its own, but for the view of its places; its domain calls it under the
//! domain's lock, and it takes one pool's lock at a time.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use vmm_sys_util::eventfd::EventFd;

use super::Pool;
use super::device::Device;
use super::host_vector::HostVector;
use super::parent::Parent;
use super::place::Places;
use super::vector::VectorHandle;
use crate::backend::{Backend, BackendError, Capabilities, Cookie, Growth, Programming};
use crate::delivery::Vector;

/// Where one of a function's vectors comes from.
#[derive(Debug)]
enum Slot {
    /// It is held as long as the function is.
    Fixed(VectorHandle),
    /// It is taken from the parent when it is first bound, and given back when it is unbound.
    OnDemand(Parent, Option<VectorHandle>),
}

impl Slot {
    fn handle(&self) -> Option<&VectorHandle> {
        match self {
            Self::Fixed(handle) => Some(handle),
            Self::OnDemand(_, handle) => handle.as_ref(),
        }
    }

    /// Where it is from, or would be.
    fn pool(&self) -> &Pool {
        match self {
            Self::Fixed(handle) => handle.pool(),
            Self::OnDemand(parent, _) => parent.table().pool(),
        }
    }

    fn handle_mut(&mut self) -> Option<&mut VectorHandle> {
        match self {
            Self::Fixed(handle) => Some(handle),
            Self::OnDemand(_, handle) => handle.as_mut(),
        }
    }
}

/// A part of a device, or of several, with vectors of its own: a [`Backend`], so that a guest's MSI-X runs on it as on
/// a device of its own. All is given back in one drop.
///
/// Its window opens and closes with its guest's; the device's own is open while any of its functions' is. An interrupt
/// reaches the function whose vector it is of and no other, also while others come and go.
#[derive(Debug)]
pub struct LogicalFunction {
    slots: Vec<Slot>,
    /// The pools whose window is open for this function.
    entered: Vec<Pool>,
    places: Places,
    /// What vectors carry that are taken on demand, whichever host vector they have.
    cookies: BTreeMap<Vector, Cookie>,
}

impl LogicalFunction {
    /// A function whose vector n is the n-th of these, for as long as the function lives.
    pub fn new(vectors: impl IntoIterator<Item = VectorHandle>) -> Self {
        let slots: Vec<Slot> = vectors.into_iter().map(Slot::Fixed).collect();
        let function =
            Self { slots, entered: Vec::new(), places: Places::default(), cookies: BTreeMap::new() };
        for (index, slot) in function.slots.iter().enumerate() {
            function.places.set(index, slot.handle().map(VectorHandle::place));
        }
        function
    }

    /// The same with `vectors` vectors more, which it takes from `parent` one by one: when the guest first uses one, and
    /// until it frees it. Which host vector that is, [`LogicalFunction::places`] tells.
    ///
    /// Interrupts meanwhile: a vector for which one waits in the device when it is freed keeps its host vector, until
    /// it was delivered or the device was reset. Where the parent has none left the vector is held and tried again.
    #[must_use]
    pub fn and_on_demand(mut self, vectors: u32, parent: &Parent) -> Self {
        self.slots.extend((0..vectors).map(|_| Slot::OnDemand(parent.clone(), None)));
        self
    }

    /// Where its vectors are; the view stays when the function is given away, and is empty when it is gone.
    pub fn places(&self) -> Places {
        self.places.clone()
    }

    /// The pools that its vectors are of, each once.
    fn pools(&self) -> Vec<Pool> {
        let mut pools: Vec<Pool> = Vec::new();
        for pool in self.slots.iter().map(Slot::pool) {
            if !pools.contains(pool) {
                pools.push(pool.clone());
            }
        }
        pools
    }

    fn enter(&mut self, pool: Pool) -> Result<(), BackendError> {
        if !self.entered.contains(&pool) {
            pool.device().enter()?;
            self.entered.push(pool);
        }
        Ok(())
    }

    /// Closes its window in each pool; what the host refuses stays as it is.
    fn leave(&mut self) -> Result<(), BackendError> {
        while let Some(pool) = self.entered.last() {
            let own: Vec<HostVector> = self
                .slots
                .iter()
                .filter_map(Slot::handle)
                .filter(|handle| handle.pool() == pool)
                .map(VectorHandle::host_vector)
                .collect();
            pool.device().leave(&own)?;
            self.entered.pop();
        }
        Ok(())
    }

    /// As far as the host lets it.
    fn abandon(&mut self) {
        self.entered.drain(..).for_each(|pool| pool.device().abandon());
    }

    /// The handle of a vector, which is taken now where it is on demand.
    fn take(&mut self, vector: Vector) -> Result<&mut VectorHandle, BackendError> {
        let reserved = self.slots.len() as u32;
        let beyond = BackendError::BeyondReservation { vector, reserved };
        match self.slots.get_mut(vector.index()).ok_or(beyond)? {
            Slot::Fixed(handle) | Slot::OnDemand(_, Some(handle)) => Ok(handle),
            Slot::OnDemand(parent, taken) => {
                let mut handle = parent
                    .alloc_any()
                    .map_err(|error| BackendError::Bind { vector, source: io::Error::other(error) })?;
                if let Some(cookie) = self.cookies.get(&vector) {
                    handle.set_cookie(Some(*cookie)).map_err(|error| cookie_refused(vector, error))?;
                }
                self.places.set(vector.index(), Some(handle.place()));
                Ok(taken.insert(handle))
            }
        }
    }

    /// The bits of 64 of its vectors, out of the bits of the devices' groups of 64.
    fn gather(&self, group: u32, bits_of: impl Fn(&mut Device, u32) -> u64) -> u64 {
        let first = (group as usize).saturating_mul(64);
        let handles = self.slots.get(first..).unwrap_or_default().iter().take(64).map(Slot::handle);
        let mut last: Option<(&Pool, u32, u64)> = None;
        let mut bits = 0;
        for (index, handle) in (0..).zip(handles).filter_map(|(index, handle)| Some((index, handle?))) {
            let (pool, HostVector(vector)) = (handle.pool(), handle.host_vector());
            // Neighbours here are mostly neighbours there: one read of the device's then.
            let device = match last {
                Some((of, group, device)) if of == pool && group == vector / 64 => device,
                _ => bits_of(&mut pool.device(), vector / 64),
            };
            last = Some((pool, vector / 64, device));
            bits |= (device.wrapping_shr(vector % 64) & 1).wrapping_shl(index);
        }
        bits
    }

    /// Gives a vector that was taken on demand back, unless it is bound or an interrupt waits for it.
    fn give_back(&mut self, index: usize) {
        if let Some(Slot::OnDemand(_, slot)) = self.slots.get_mut(index)
            && slot.take_if(|handle| !handle.is_bound() && !handle.is_pending()).is_some()
        {
            self.places.set(index, None);
        }
    }

    fn give_all_back(&mut self) {
        (0..self.slots.len()).for_each(|index| self.give_back(index));
    }

    fn is_bound(&self, vector: Vector) -> bool {
        self.slots.get(vector.index()).and_then(Slot::handle).is_some_and(VectorHandle::is_bound)
    }
}

impl Parent {
    /// A sub-device of up to `vectors` vectors, none of which it has yet: see [`LogicalFunction::and_on_demand`].
    pub fn sub_device(&self, vectors: u32) -> LogicalFunction {
        LogicalFunction::new([]).and_on_demand(vectors, self)
    }
}

impl Backend for LogicalFunction {
    fn capabilities(&self) -> Capabilities {
        let on_demand = |slot: &&Slot| matches!(slot, Slot::OnDemand(..));
        let multi_message = !self.slots.iter().any(|slot| on_demand(&slot));
        let vectors = self.slots.len() as u32;
        let own = Capabilities {
            vectors,
            growth: Growth::Dynamic,
            independent: true,
            multi_message,
            ims: true,
            cookies: true,
        };
        self.pools().iter().fold(own, |all, pool| {
            // From however many devices.
            Capabilities { vectors, ..all.intersection(pool.capabilities()) }
        })
    }

    fn open(&mut self, _vectors: u32) -> Result<(), BackendError> {
        // A reset of the device may have taken away what some of these waited for.
        self.give_all_back();
        for pool in self.pools() {
            if let Err(error) = self.enter(pool) {
                self.abandon();
                return Err(error);
            }
        }
        Ok(())
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        let pool = self.take(vector)?.pool().clone();
        // Not so only where closing it has failed halfway.
        let bound = self.enter(pool).and_then(|()| {
            let handle = self.slots.get_mut(vector.index()).and_then(Slot::handle_mut);
            handle.map_or(Ok(()), |handle| handle.bind(eventfd))
        });
        bound.map_err(|error| {
            self.give_back(vector.index());
            BackendError::Bind { vector, source: io::Error::other(error) }
        })
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        let Some(handle) = self.slots.get_mut(vector.index()).and_then(Slot::handle_mut) else {
            return Ok(());
        };
        handle.unbind().map_err(|error| BackendError::Unbind { vector, source: io::Error::other(error) })
    }

    fn release(&mut self, vector: Vector) {
        self.give_back(vector.index());
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let vectors = (0..self.slots.len() as u32).map(Vector);
        let mut unbound: Vec<Vector> = vectors.filter(|vector| self.is_bound(*vector)).collect();
        let left = self.leave().map_err(|error| {
            unbound.retain(|vector| !self.is_bound(*vector));
            BackendError::Close { unbound, source: io::Error::other(error) }
        });
        self.give_all_back();
        left
    }

    fn pending(&mut self, group: u32) -> u64 {
        self.gather(group, Device::pending)
    }

    fn pending_to_save(&mut self, group: u32) -> u64 {
        self.gather(group, Device::pending_to_save)
    }

    /// The device's own.
    fn eventfd(&mut self, vector: Vector) -> io::Result<EventFd> {
        let eventfd = self.take(vector).map_err(io::Error::other)?.eventfd();
        if eventfd.is_err() {
            self.give_back(vector.index());
        }
        eventfd
    }

    fn clear_pending(&mut self, vectors: Range<u32>) {
        let range = vectors.start as usize..(vectors.end as usize).min(self.slots.len());
        let slots = self.slots.get_mut(range).unwrap_or_default();
        slots.iter_mut().filter_map(Slot::handle_mut).for_each(VectorHandle::clear_pending);
    }

    fn vector_programming(&mut self, vector: Vector) -> Programming {
        let handle = self.slots.get(vector.index()).and_then(Slot::handle);
        handle.map_or(Programming::Unknown, VectorHandle::programming)
    }

    /// The guest's enable bit is not the device's, which other functions use too.
    fn enable_programming(&mut self) -> Programming {
        Programming::Kept
    }

    /// One that is taken on demand carries it on every host vector that it has from now on.
    fn set_cookie(&mut self, vector: Vector, cookie: Option<Cookie>) -> Result<(), BackendError> {
        let reserved = self.slots.len() as u32;
        let Some(slot) = self.slots.get_mut(vector.index()) else {
            return Err(BackendError::BeyondReservation { vector, reserved });
        };
        // Also where it has no host vector yet: it would be refused one then.
        if cookie.is_some() && !slot.pool().capabilities().cookies {
            return Err(BackendError::NoCookies { vector });
        }
        if let Some(handle) = slot.handle_mut() {
            handle.set_cookie(cookie).map_err(|error| cookie_refused(vector, error))?;
        }
        match (slot, cookie) {
            (Slot::OnDemand(..), Some(cookie)) => drop(self.cookies.insert(vector, cookie)),
            (Slot::OnDemand(..), None) => drop(self.cookies.remove(&vector)),
            (Slot::Fixed(_), _) => {}
        }
        Ok(())
    }
}

/// A refusal by the device's number of a vector, by the function's.
fn cookie_refused(vector: Vector, error: BackendError) -> BackendError {
    match error {
        BackendError::NoCookies { .. } => BackendError::NoCookies { vector },
        error => BackendError::Bind { vector, source: io::Error::other(error) },
    }
}

/// All is given back, and what the host does not take back is the pools' to try again.
impl Drop for LogicalFunction {
    fn drop(&mut self) {
        let _ = self.leave();
        self.places.clear();
        self.slots.clear();
        self.abandon();
    }
}
