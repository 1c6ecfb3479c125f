//! The pool: one device that several functions share. Its locking is in the folder's `mod.rs`.

use std::fmt;
use std::sync::{Arc, MutexGuard};

use super::device::Device;
use super::report::PoolReport;
use crate::backend::{Backend, Capabilities};
use crate::lock::Mutex;

/// One device's host vectors. Clones are the same pool. The backend is dropped with the last of the clones and of the handles,
/// windows and functions of the pool.
#[derive(Clone)]
pub struct Pool(Arc<Mutex<Device>>);

impl Pool {
    /// A pool of all vectors of a device. It makes no host call yet.
    pub fn new(device: impl Backend + 'static) -> Self {
        Self(Arc::new(Mutex::new(Device::new(Box::new(device)))))
    }

    /// The device's capabilities.
    pub fn capabilities(&self) -> Capabilities {
        self.device().capabilities()
    }

    /// Tries again to unbind the vectors that the host has refused to unbind when their handle was dropped. It is cheap if there
    /// are none. Allocating a vector tries that vector again too.
    pub fn retry(&self) {
        let mut device = self.device();
        if device.failed_steps() > 0 {
            device.retry();
        }
    }

    /// How many steps the host has refused for which no function retries: vectors whose handle is dropped and that are still bound,
    /// and the device's capability if it is enabled although no function needs it. Call [`Pool::retry`] now and then while it is
    /// not 0.
    pub fn failed_steps(&self) -> usize {
        self.device().failed_steps()
    }

    /// The state of the device and of its vectors.
    pub fn report(&self) -> PoolReport {
        self.device().report()
    }

    pub(super) fn device(&self) -> MutexGuard<'_, Device> {
        self.0.lock()
    }
}

impl PartialEq for Pool {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Pool {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("capabilities", &self.capabilities()).finish_non_exhaustive()
    }
}
