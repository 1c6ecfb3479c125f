//! A device without VFIO: it raises vectors on order, and keeps pending bits for those without an eventfd.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::EventFd;

use super::Failures;
use crate::backend::{Backend, BackendError};
use crate::delivery::Vector;

#[derive(Debug, Default)]
struct Device {
    open: bool,
    bound: BTreeMap<Vector, EventFd>,
    /// Raised while they had no eventfd.
    pending: BTreeSet<Vector>,
}

/// The fake of a device and its host vectors; clones are the same device.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    failures: Failures,
    device: Arc<Mutex<Device>>,
}

impl FakeBackend {
    /// A device with its interrupts turned off.
    pub fn new(failures: Failures) -> Self {
        Self { failures, device: Arc::default() }
    }

    /// The device raises a vector; false where it may not, because its interrupts are off.
    pub fn raise(&self, vector: Vector) -> bool {
        let device = &mut *self.device();
        match device.bound.get(&vector) {
            Some(eventfd) => eventfd.write(1).expect("room in an eventfd"),
            None if device.open => drop(device.pending.insert(vector)),
            None => {}
        }
        device.open
    }

    /// The device is reset: nothing is pending in it.
    pub fn reset(&self) {
        self.device().pending.clear();
    }

    /// The same device in another host: nothing is bound, and what it has pending itself is pending there.
    pub fn moved(&self, failures: Failures) -> Self {
        let pending = self.device().pending.clone();
        Self { failures, device: Arc::new(Mutex::new(Device { pending, ..Device::default() })) }
    }

    /// How many vectors have an eventfd, and whether the device's interrupts are on.
    pub fn in_use(&self) -> (usize, bool) {
        let device = self.device();
        (device.bound.len(), device.open)
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().expect("an earlier check has failed")
    }
}

impl Backend for FakeBackend {
    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        self.failures.next().map_err(|source| BackendError::Open { asked: vectors, source })?;
        let was_open = std::mem::replace(&mut self.device().open, true);
        assert!(!was_open, "the window was opened twice");
        Ok(())
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        self.failures.next().map_err(|source| BackendError::Bind { vector, source })?;
        let device = &mut *self.device();
        assert!(device.open, "a vector was bound while the window was closed");
        let clone = eventfd.try_clone().expect("a descriptor for the fake");
        if device.pending.remove(&vector) {
            clone.write(1).expect("room in an eventfd");
        }
        assert!(device.bound.insert(vector, clone).is_none(), "a vector was bound twice");
        Ok(())
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.failures.next().map_err(|source| BackendError::Unbind { vector, source })?;
        assert!(self.device().bound.remove(&vector).is_some(), "a vector was unbound that was not bound");
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        self.failures.next().map_err(|source| BackendError::Close { source })?;
        let device = &mut *self.device();
        assert!(device.open, "the window was closed twice");
        device.open = false;
        device.bound.clear();
        Ok(())
    }

    fn pending(&mut self, group: u32) -> u64 {
        let device = self.device();
        let bits = device.pending.iter().filter(|vector| vector.0 / 64 == group);
        bits.fold(0, |bits, vector| bits | 1 << (vector.0 % 64))
    }
}
