//! A device without VFIO: it raises vectors on order, and keeps pending bits for those without an eventfd.
//!
//! It is as hostile as the contract of [`Backend`] lets a device be. Its pending bits of bound vectors, and of vectors that it
//! does not have, are set. A close that it refuses may have unbound some vectors. It panics where a caller breaks the contract.

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
    /// So many vectors may be bound; 0 while its interrupts are off.
    window: u32,
    bound: BTreeMap<Vector, EventFd>,
    /// Raised while they had no eventfd.
    pending: BTreeSet<Vector>,
    cookies: BTreeMap<Vector, Cookie>,
    /// Times that 64 of its pending bits were read.
    reads: usize,
}

/// The fake of a device and its host vectors; clones are the same device.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    failures: Failures,
    capabilities: Capabilities,
    /// It raises a vector once more when the host takes it back.
    restless: bool,
    device: Arc<Mutex<Device>>,
}

impl FakeBackend {
    /// A device of 2048 vectors that grow one by one, with its interrupts turned off.
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

    /// A device that can do so much, with its interrupts turned off.
    pub fn with_capabilities(failures: Failures, capabilities: Capabilities) -> Self {
        Self { failures, capabilities, restless: false, device: Arc::default() }
    }

    /// The same device, which raises a vector once more when the host takes it back, as one does that nobody has stopped.
    pub fn restless(self) -> Self {
        Self { restless: true, ..self }
    }

    /// The device raises a vector; false where it may not, because its interrupts are off.
    pub fn raise(&self, vector: Vector) -> bool {
        let device = &mut *self.device();
        match device.bound.get(&vector) {
            Some(eventfd) => eventfd.write(1).expect("room in an eventfd"),
            None if device.window > 0 => drop(device.pending.insert(vector)),
            None => {}
        }
        device.window > 0
    }

    /// Whether what the device has raised for a vector waits, in its eventfd or in the device.
    pub(super) fn waits(&self, vector: Vector) -> bool {
        let device = self.device();
        match device.bound.get(&vector) {
            Some(eventfd) => signalled([eventfd]).any(|signalled| signalled),
            None => device.pending.contains(&vector),
        }
    }

    /// Finds the same device as long as somebody else has it.
    pub(super) fn downgrade(&self) -> impl Fn() -> Option<Self> + Send + use<> {
        let (device, capabilities, restless) =
            (Arc::downgrade(&self.device), self.capabilities, self.restless);
        move || {
            let device = device.upgrade()?;
            Some(Self { failures: Failures::default(), capabilities, restless, device })
        }
    }

    /// The device is reset: nothing is pending in it.
    pub fn reset(&self) {
        self.device().pending.clear();
    }

    /// The device's file is closed: the host has everything back, also what it refused to take before. Another device
    /// is in its place. What was left of it: see [`FakeBackend::in_use`].
    pub fn unplug(&self) -> (usize, bool) {
        let left = self.in_use();
        *self.device() = Device::default();
        left
    }

    /// The same device in another host: nothing is bound, and what it has pending itself is pending there.
    pub fn moved(&self, failures: Failures) -> Self {
        let pending = self.device().pending.clone();
        let device = Arc::new(Mutex::new(Device { pending, ..Device::default() }));
        Self { failures, device, ..self.clone() }
    }

    /// A part of the device is reset: nothing is pending for a vector of it.
    pub fn forget(&self, vector: Vector) {
        self.device().pending.remove(&vector);
    }

    /// What a vector's interrupts carry.
    pub fn cookie(&self, vector: Vector) -> Option<Cookie> {
        self.device().cookies.get(&vector).copied()
    }

    /// How many times 64 of its pending bits were read.
    pub fn reads(&self) -> usize {
        self.device().reads
    }

    /// How many vectors have an eventfd, and whether the device's interrupts are on.
    pub fn in_use(&self) -> (usize, bool) {
        let device = self.device();
        (device.bound.len(), device.window > 0)
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        // A check that has failed has ended the test, which drops its functions yet.
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
        if self.restless {
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

    /// Where it is refused, every other vector is unbound all the same, except while a test looks.
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

    /// Its duplicates are closed by then.
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
