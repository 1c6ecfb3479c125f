//! A fake device without VFIO. A test makes it raise vectors, and it keeps pending bits for unbound vectors.
//!
//! It is as hostile as the contract of [`Backend`] allows. The pending bits of bound vectors, and of vectors
//! that it does not have, are set. A refused close may have unbound some vectors. It panics if a caller
//! breaks the contract.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Failures;
use crate::backend::{Backend, BackendError, Capabilities, Cookie, EventfdOwner, Growth, Programming};
use crate::delivery::Vector;
use crate::signalled::{borrow, signalled};

#[derive(Debug, Default)]
struct Device {
    /// How many vectors may be bound; 0 while the device's interrupts are disabled.
    window: u32,
    bound: BTreeMap<Vector, EventFd>,
    /// Vectors that were raised while they were unbound.
    pending: BTreeSet<Vector>,
    cookies: BTreeMap<Vector, Cookie>,
    /// How often a group of 64 pending bits was read.
    reads: usize,
}

/// A fake of a device and its host vectors. Clones are the same device.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    failures: Failures,
    capabilities: Capabilities,
    /// Raises a vector again when the host unbinds it.
    signals_on_unbind: bool,
    device: Arc<Mutex<Device>>,
}

impl FakeBackend {
    /// A device with 2048 vectors that are allocated one by one. Its interrupts are disabled.
    pub fn new(failures: Failures) -> Self {
        let capabilities = Capabilities {
            vectors: 2048,
            growth: Growth::Dynamic,
            independent: true,
            multi_message: false,
            ims: true,
            cookies: true,
        };
        Self::with_capabilities(failures, capabilities)
    }

    /// A device with these features. Its interrupts are disabled.
    pub fn with_capabilities(failures: Failures, capabilities: Capabilities) -> Self {
        Self { failures, capabilities, signals_on_unbind: false, device: Arc::default() }
    }

    /// The same device, which raises a vector again when the host unbinds it, like a device that was not
    /// quiesced.
    pub fn signals_on_unbind(self) -> Self {
        Self { signals_on_unbind: true, ..self }
    }

    /// Raises a vector. Returns false if the device's interrupts are disabled.
    pub fn raise(&self, vector: Vector) -> bool {
        let device = &mut *self.device();
        match device.bound.get(&vector) {
            Some(eventfd) => eventfd.write(1).expect("room in an eventfd"),
            None if device.window > 0 => drop(device.pending.insert(vector)),
            None => {}
        }
        device.window > 0
    }

    /// Whether an interrupt of a vector is waiting, in its eventfd or in the device.
    pub(super) fn waits(&self, vector: Vector) -> bool {
        let device = self.device();
        match device.bound.get(&vector) {
            Some(eventfd) => signalled([eventfd]).any(|signalled| signalled),
            None => device.pending.contains(&vector),
        }
    }

    /// Finds the same device while another handle of it exists.
    pub(super) fn downgrade(&self) -> impl Fn() -> Option<Self> + Send + use<> {
        let (device, capabilities, signals_on_unbind) =
            (Arc::downgrade(&self.device), self.capabilities, self.signals_on_unbind);
        move || {
            let device = device.upgrade()?;
            Some(Self { failures: Failures::default(), capabilities, signals_on_unbind, device })
        }
    }

    /// Resets the device: nothing is pending in it.
    pub fn reset(&self) {
        self.device().pending.clear();
    }

    /// Closes the device's file, so the host frees all that it refused to free before. Another device takes
    /// its place. Returns what was left: see [`FakeBackend::in_use`].
    pub fn unplug(&self) -> (usize, bool) {
        let left = self.in_use();
        *self.device() = Device::default();
        left
    }

    /// The same device in another host. Nothing is bound, and its own pending bits are unchanged.
    pub fn moved(&self, failures: Failures) -> Self {
        let pending = self.device().pending.clone();
        let device = Arc::new(Mutex::new(Device { pending, ..Device::default() }));
        Self { failures, device, ..self.clone() }
    }

    /// Resets a part of the device: the vector's pending bit is cleared.
    pub fn forget(&self, vector: Vector) {
        self.device().pending.remove(&vector);
    }

    /// The cookie of a vector's interrupts.
    pub fn cookie(&self, vector: Vector) -> Option<Cookie> {
        self.device().cookies.get(&vector).copied()
    }

    /// How often a group of 64 pending bits was read.
    pub fn reads(&self) -> usize {
        self.device().reads
    }

    /// How many vectors have an eventfd, and whether the device's interrupts are enabled.
    pub fn in_use(&self) -> (usize, bool) {
        let device = self.device();
        (device.bound.len(), device.window > 0)
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        // A failed check has ended the test, which still drops its functions.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for FakeBackend {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        let _call = self.failures.next().map_err(|source| BackendError::Open { asked: vectors, source })?;
        assert!(
            (1..=self.capabilities.vectors).contains(&vectors),
            "the window was opened for {vectors}, and the device has {}",
            self.capabilities.vectors
        );
        let window = std::mem::replace(&mut self.device().window, vectors);
        assert_eq!(window, 0, "the window was opened twice");
        Ok(())
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        let _call = self.failures.next().map_err(|source| BackendError::Bind { vector, source })?;
        let is_nonblocking = fcntl_getfl(borrow(eventfd)).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
        assert!(is_nonblocking, "vector {vector} was bound to an eventfd that would block");
        let device = &mut *self.device();
        assert!(
            vector.0 < device.window,
            "vector {vector} was bound, and the window is of {}",
            device.window
        );
        let clone = eventfd.try_clone().expect("a descriptor for the fake");
        if device.pending.remove(&vector) {
            clone.write(1).expect("room in an eventfd");
        }
        assert!(device.bound.insert(vector, clone).is_none(), "a vector was bound twice");
        Ok(())
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        let _call = self.failures.next().map_err(|source| BackendError::Unbind { vector, source })?;
        assert!(self.device().bound.remove(&vector).is_some(), "a vector was unbound that was not bound");
        if self.signals_on_unbind {
            self.raise(vector);
        }
        Ok(())
    }

    fn release(&mut self, vector: Vector) {
        assert!(
            !self.device().bound.contains_key(&vector),
            "vector {vector} was released while it was bound"
        );
    }

    /// If it is refused, every other vector is unbound, except during `refuse_all_during`.
    fn close(&mut self) -> Result<(), BackendError> {
        let _call = self.failures.next().map_err(|source| {
            let device = &mut *self.device();
            let some = if self.failures.is_refusing_all() { 0 } else { usize::MAX };
            let unbound: Vec<Vector> = device.bound.keys().copied().step_by(2).take(some).collect();
            unbound.iter().for_each(|vector| drop(device.bound.remove(vector)));
            BackendError::Close { unbound, source }
        })?;
        let device = &mut *self.device();
        assert!(device.window > 0, "the window was closed twice");
        device.window = 0;
        device.bound.clear();
        Ok(())
    }

    /// The fake's duplicates are closed by then.
    fn eventfd_owner_after_close(&self) -> EventfdOwner {
        EventfdOwner::Domain
    }

    fn pending(&mut self, group: u32) -> u64 {
        assert!(group < self.capabilities.vectors.div_ceil(64), "the device has no such pending bits");
        let mut device = self.device();
        device.reads += 1;
        let beyond = self.capabilities.vectors..self.capabilities.vectors.next_multiple_of(64);
        let meaningless = device.bound.keys().copied().chain(beyond.map(Vector));
        let bits = device.pending.iter().copied().chain(meaningless).filter(|vector| vector.0 / 64 == group);
        bits.fold(0, |bits, vector| bits | 1 << (vector.0 % 64))
    }

    fn eventfd(&mut self, vector: Vector) -> io::Result<EventFd> {
        let device = self.device();
        assert!(
            !device.bound.contains_key(&vector),
            "vector {vector} has an eventfd, and another is to be made"
        );
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
    }

    fn vector_programming(&mut self, vector: Vector) -> Programming {
        assert!(
            self.device().bound.contains_key(&vector),
            "vector {vector} is not bound, and not programmed"
        );
        Programming::Unknown
    }

    fn enable_programming(&mut self) -> Programming {
        assert!(self.device().window > 0, "the window is closed, and the capability not enabled");
        Programming::Unknown
    }

    fn set_cookie(&mut self, vector: Vector, cookie: Option<Cookie>) -> Result<(), BackendError> {
        let cookies = &mut self.device().cookies;
        match cookie {
            Some(_) if !self.capabilities.cookies => return Err(BackendError::NoCookies { vector }),
            Some(cookie) => cookies.insert(vector, cookie),
            None => cookies.remove(&vector),
        };
        Ok(())
    }
}
