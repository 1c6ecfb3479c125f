//! A logical function: a backend whose vectors count from 0, over host vectors of one or several devices.
//!
//! Owns the handles of its vectors. Invariant: a vector is bound only while the function has the capability of the vector's device
//! enabled. Locking: its domain calls it under the domain's lock, and it takes one pool's lock at a time.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use vmm_sys_util::eventfd::EventFd;

use super::Pool;
use super::device::Device;
use super::parent::Parent;
use super::vector::VectorHandle;
use super::vector_map::{HostVector, VectorMap};
use crate::backend::{Backend, BackendError, Capabilities, Cookie, Growth, Programming};
use crate::delivery::Vector;

/// How one vector of a function gets its host vector.
#[derive(Debug)]
enum Slot {
    /// It has it until the function is dropped.
    Fixed(VectorHandle),
    /// It is allocated from the parent when the vector is first bound, and freed after the guest has freed the vector.
    OnDemand(Parent, Option<VectorHandle>),
}

impl Slot {
    fn handle(&self) -> Option<&VectorHandle> {
        match self {
            Self::Fixed(handle) => Some(handle),
            Self::OnDemand(_, handle) => handle.as_ref(),
        }
    }

    /// The pool of its host vector, even if it has none now.
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

/// A [`Backend`] whose vectors count from 0: a part of one device or of several. A guest's MSI-X runs on it as on a device of its
/// own. Dropping it frees all its vectors.
///
/// It enables the capability of its devices while its guest has MSI-X enabled. A device's capability is enabled while at least one
/// function has it enabled.
///
/// Interrupts meanwhile: an interrupt reaches only the function that has its vector, also while others open and close.
#[derive(Debug)]
pub struct LogicalFunction {
    slots: Vec<Slot>,
    /// The devices whose capability this function has enabled.
    opened: Vec<Pool>,
    vector_map: VectorMap,
    /// The cookies of on-demand vectors, which every host vector of theirs gets.
    cookies: BTreeMap<Vector, Cookie>,
}

impl LogicalFunction {
    /// A function whose vector n is the n-th of `vectors`.
    pub fn new(vectors: impl IntoIterator<Item = VectorHandle>) -> Self {
        let slots: Vec<Slot> = vectors.into_iter().map(Slot::Fixed).collect();
        let function =
            Self { slots, opened: Vec::new(), vector_map: VectorMap::default(), cookies: BTreeMap::new() };
        for (index, slot) in function.slots.iter().enumerate() {
            function.vector_map.set(index, slot.handle().map(VectorHandle::host_vector_ref));
        }
        function
    }

    /// Adds `vectors` on-demand vectors. Each gets a host vector of `parent` when the guest first uses it, until the guest frees it.
    /// [`LogicalFunction::vector_map`] names that host vector.
    ///
    /// Interrupts meanwhile: if an interrupt is pending in the device when the guest frees the vector, the vector keeps its host
    /// vector until the interrupt is delivered or the device is reset. While the parent has no free vector, the vector is held and
    /// tried again.
    #[must_use]
    pub fn and_on_demand(mut self, vectors: u32, parent: &Parent) -> Self {
        self.slots.extend((0..vectors).map(|_| Slot::OnDemand(parent.clone(), None)));
        self
    }

    /// The host vector of each vector. The map stays valid after the function was given to its domain, and is empty once the function
    /// is dropped.
    pub fn vector_map(&self) -> VectorMap {
        self.vector_map.clone()
    }

    /// The pools of its vectors, each once.
    fn pools(&self) -> Vec<Pool> {
        let mut pools: Vec<Pool> = Vec::new();
        for pool in self.slots.iter().map(Slot::pool) {
            if !pools.contains(pool) {
                pools.push(pool.clone());
            }
        }
        pools
    }

    fn open_device(&mut self, pool: Pool) -> Result<(), BackendError> {
        if !self.opened.contains(&pool) {
            pool.device().open_function()?;
            self.opened.push(pool);
        }
        Ok(())
    }

    /// Closes each device. A device that the host refuses to close stays open, and so do the ones after it.
    fn close_devices(&mut self) -> Result<(), BackendError> {
        while let Some(pool) = self.opened.last() {
            let own: Vec<HostVector> = self
                .slots
                .iter()
                .filter_map(Slot::handle)
                .filter(|handle| handle.pool() == pool)
                .map(VectorHandle::host_vector)
                .collect();
            pool.device().close_function(&own)?;
            self.opened.pop();
        }
        Ok(())
    }

    fn forget_devices(&mut self) {
        self.opened.drain(..).for_each(|pool| pool.device().forget_function());
    }

    /// The handle of a vector. An on-demand vector is allocated now.
    fn handle_or_alloc(&mut self, vector: Vector) -> Result<&mut VectorHandle, BackendError> {
        let reserved = self.slots.len() as u32;
        let beyond = BackendError::BeyondReservation { vector, reserved };
        match self.slots.get_mut(vector.index()).ok_or(beyond)? {
            Slot::Fixed(handle) | Slot::OnDemand(_, Some(handle)) => Ok(handle),
            Slot::OnDemand(parent, allocated) => {
                let mut handle = parent
                    .alloc_any()
                    .map_err(|error| BackendError::Bind { vector, source: io::Error::other(error) })?;
                if let Some(cookie) = self.cookies.get(&vector) {
                    handle.set_cookie(Some(*cookie)).map_err(|error| cookie_refused(vector, error))?;
                }
                self.vector_map.set(vector.index(), Some(handle.host_vector_ref()));
                Ok(allocated.insert(handle))
            }
        }
    }

    /// Bits of 64 of its vectors, put together from the devices' groups of 64.
    fn gather(&self, group: u32, bits_of: impl Fn(&mut Device, u32) -> u64) -> u64 {
        let first = (group as usize).saturating_mul(64);
        let handles = self.slots.get(first..).unwrap_or_default().iter().take(64).map(Slot::handle);
        let mut last: Option<(&Pool, u32, u64)> = None;
        let mut bits = 0;
        for (index, handle) in (0..).zip(handles).filter_map(|(index, handle)| Some((index, handle?))) {
            let (pool, HostVector(vector)) = (handle.pool(), handle.host_vector());
            // Neighbours in the function are mostly neighbours in the device: then one read of the device is enough.
            let device = match last {
                Some((of, group, device)) if of == pool && group == vector / 64 => device,
                _ => bits_of(&mut pool.device(), vector / 64),
            };
            last = Some((pool, vector / 64, device));
            bits |= (device.wrapping_shr(vector % 64) & 1).wrapping_shl(index);
        }
        bits
    }

    /// Frees the host vector of an on-demand vector, unless it is bound or has a pending interrupt.
    fn free_on_demand(&mut self, index: usize) {
        if let Some(Slot::OnDemand(_, slot)) = self.slots.get_mut(index)
            && slot.take_if(|handle| !handle.is_bound() && !handle.is_pending()).is_some()
        {
            self.vector_map.set(index, None);
        }
    }

    fn free_all_on_demand(&mut self) {
        (0..self.slots.len()).for_each(|index| self.free_on_demand(index));
    }

    fn is_bound(&self, vector: Vector) -> bool {
        self.slots.get(vector.index()).and_then(Slot::handle).is_some_and(VectorHandle::is_bound)
    }
}

impl Parent {
    /// A sub-device of `vectors` on-demand vectors: see [`LogicalFunction::and_on_demand`].
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
        self.pools()
            .iter()
            .fold(own, |all, pool| Capabilities { vectors, ..all.intersection(pool.capabilities()) })
    }

    fn open(&mut self, _vectors: u32) -> Result<(), BackendError> {
        // A reset of the device may have cleared the pending bits that kept some host vectors.
        self.free_all_on_demand();
        for pool in self.pools() {
            if let Err(error) = self.open_device(pool) {
                self.forget_devices();
                return Err(error);
            }
        }
        Ok(())
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        let pool = self.handle_or_alloc(vector)?.pool().clone();
        // It is open already, except after a close that has failed halfway.
        let bound = self.open_device(pool).and_then(|()| {
            let handle = self.slots.get_mut(vector.index()).and_then(Slot::handle_mut);
            handle.map_or(Ok(()), |handle| handle.bind(eventfd))
        });
        bound.map_err(|error| {
            self.free_on_demand(vector.index());
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
        self.free_on_demand(vector.index());
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let vectors = (0..self.slots.len() as u32).map(Vector);
        let mut unbound: Vec<Vector> = vectors.filter(|vector| self.is_bound(*vector)).collect();
        let closed = self.close_devices().map_err(|error| {
            unbound.retain(|vector| !self.is_bound(*vector));
            BackendError::Close { unbound, source: io::Error::other(error) }
        });
        self.free_all_on_demand();
        closed
    }

    fn pending(&mut self, group: u32) -> u64 {
        self.gather(group, Device::pending)
    }

    fn pending_to_save(&mut self, group: u32) -> u64 {
        self.gather(group, Device::pending_to_save)
    }

    fn eventfd(&mut self, vector: Vector) -> io::Result<EventFd> {
        let eventfd = self.handle_or_alloc(vector).map_err(io::Error::other)?.eventfd();
        if eventfd.is_err() {
            self.free_on_demand(vector.index());
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

    /// The device's enable bit is not the guest's: other functions use the device too.
    fn enable_programming(&mut self) -> Programming {
        Programming::Kept
    }

    /// Every later host vector of an on-demand vector gets the cookie too.
    fn set_cookie(&mut self, vector: Vector, cookie: Option<Cookie>) -> Result<(), BackendError> {
        let reserved = self.slots.len() as u32;
        let Some(slot) = self.slots.get_mut(vector.index()) else {
            return Err(BackendError::BeyondReservation { vector, reserved });
        };
        // Checked now even if the vector has no host vector yet. Otherwise its next bind would fail.
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

/// The error with the function's number of the vector instead of the device's.
fn cookie_refused(vector: Vector, error: BackendError) -> BackendError {
    match error {
        BackendError::NoCookies { .. } => BackendError::NoCookies { vector },
        error => BackendError::Bind { vector, source: io::Error::other(error) },
    }
}

/// Frees all vectors. The pools try the steps again that the host refuses.
impl Drop for LogicalFunction {
    fn drop(&mut self) {
        let _ = self.close_devices();
        self.vector_map.clear();
        self.slots.clear();
        self.forget_devices();
    }
}
