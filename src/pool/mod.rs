//! One physical device's host vectors, divided among the functions of which a guest sees each as a device of its own.
//!
//! A [`Pool`] owns the device's [`Backend`] and knows who holds each of its vectors. It gives out the right to one
//! vector at a time ([`VectorHandle`]): a certain one for a special purpose, or any of a range; a [`Window`] sets
//! vectors aside. A [`LogicalFunction`] puts handles together to a backend whose vectors count from 0, so that an
//! ordinary [`InterruptFunction`](crate::InterruptFunction) of a guest's MSI-X runs on it. A [`Parent`] is a PCI function that hands
//! entries on to sub-devices, which take them when their guest first uses one. Who gets how many is the embedder's
//! to say: there is no policy here, only rights.
//!
//! Invariant: a host vector has one holder at most, only its holder can touch it, and it changes hands with nothing
//! pending. The device's own window is open while any function's is: it opens at the first and closes after the last,
//! so that no function turns the others' MSI-X off. Handles, windows, functions, parents and pools may be dropped in
//! any order.
//!
//! Locking: one lock a pool, held for the backend's calls, taken after a domain's; nothing under it calls back up. Of
//! several pools one at a time, unless the backend of one is a function of another: the upper is the outer one then.
//!
//! ```
//! use std::sync::Arc;
//! use vm_msi::pool::{HostVector, LogicalFunction, Parent, Pool};
//! use vm_msi::{Backend, Vector};
//! # use vm_msi::testing::{Failures, FakeBackend};
//! # use vmm_sys_util::eventfd::EventFd;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let device = FakeBackend::new(Failures::default());
//!
//! // A device (`vfio::VfioMsix`, say): its first 32 vectors are the physical function's, which uses 0 for its management.
//! let pool = Pool::new(device);
//! let table = Arc::new(pool.reserve(0..32)?);
//! let management = table.alloc_at(HostVector(0))?;
//! let queues = [table.alloc_any()?, table.alloc_any()?];
//! let mut physical = LogicalFunction::new([management].into_iter().chain(queues));
//!
//! // Another function has two vectors of the rest, which its guest sees as 0 and 1.
//! let other = LogicalFunction::new([pool.alloc_any(32..64)?, pool.alloc_at(HostVector(40))?]);
//! assert_eq!(other.places().get(Vector(1)).map(|place| place.vector), Some(HostVector(40)));
//!
//! // Each goes to a `MsixFunction::new(layout, router, physical)`; here is what that does when the guest turns MSI-X on.
//! physical.open(3)?;
//! let parent = Parent::enable(table, HostVector(0))?;
//! let mut sub_device = parent.sub_device(8);
//! let places = sub_device.places();
//!
//! // And what it does when the sub-device's guest first unmasks vector 5: that takes an entry of the parent's.
//! assert_eq!(places.get(Vector(5)), None);
//! sub_device.open(8)?;
//! # let eventfd = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK)?;
//! sub_device.bind(Vector(5), &eventfd)?;
//! assert_eq!(places.get(Vector(5)).map(|place| place.vector), Some(HostVector(3)));
//! # Ok(())
//! # }
//! ```

mod device;
mod error;
mod function;
mod host_vector;
mod parent;
mod place;
mod report;
#[cfg(test)]
mod tests;
mod vector;
mod window;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, MutexGuard};

pub use error::{ParentError, PoolError};
pub use function::LogicalFunction;
pub use host_vector::HostVector;
pub use parent::Parent;
pub use place::{Place, Places};
pub use report::{Counters, Holding, HostVectorReport, PoolReport};
pub use vector::VectorHandle;
pub use window::Window;

use crate::backend::{Backend, Capabilities};
use crate::lock::Mutex;
use crate::msi::MessageCount;
use device::{Device, WindowId};

/// One device's host vectors. Clones are the same pool; the device is given back when the last of them has gone, and
/// the last of what was given out.
#[derive(Clone)]
pub struct Pool(Arc<Mutex<Device>>);

impl Pool {
    /// A pool of all of a device's vectors. The host is asked for nothing yet.
    pub fn new(device: impl Backend + 'static) -> Self {
        Self(Arc::new(Mutex::new(Device::new(Box::new(device)))))
    }

    /// What the device can do.
    pub fn capabilities(&self) -> Capabilities {
        self.device().capabilities()
    }

    /// Sets host vectors aside, from the first to before the second: all or none.
    ///
    /// # Errors
    /// One of them does not exist, is reserved, or in use.
    pub fn reserve(&self, vectors: Range<u32>) -> Result<Window, PoolError> {
        let id = self.device().reserve(vectors.clone())?;
        Ok(Window::new(self.clone(), vectors, id))
    }

    /// Sets the first block of contiguous vectors aside that is free, aligned to its size, as the messages of
    /// multi-message MSI are (PCIe r6 §6.1.4).
    ///
    /// # Errors
    /// There is none.
    pub fn reserve_block(&self, size: MessageCount) -> Result<Window, PoolError> {
        let (size, all) = (size.get(), self.capabilities().vectors);
        let blocks = (0..all).step_by(size as usize).map(|first| first..first.saturating_add(size));
        let mut windows = blocks.filter_map(|vectors| self.reserve(vectors).ok());
        windows.next().ok_or(PoolError::Exhausted { among: 0..all })
    }

    /// One certain host vector that is not reserved: for what the device uses a fixed one for.
    ///
    /// # Errors
    /// It does not exist, is reserved or in use, or the host could not clear it of what waits for it.
    pub fn alloc_at(&self, vector: HostVector) -> Result<VectorHandle, PoolError> {
        self.claim(vector, None)
    }

    /// Any host vector of a range (from the first to before the second) that is not reserved.
    ///
    /// # Errors
    /// All that are not reserved are in use, or the host could clear none of those that are free.
    pub fn alloc_any(&self, among: Range<u32>) -> Result<VectorHandle, PoolError> {
        self.claim_any(among, None, None)
    }

    /// Tries again what the host has not taken back; cheap where that is nothing. Asking for a vector tries too.
    pub fn retry(&self) {
        let mut device = self.device();
        if device.failed_steps() > 0 {
            device.retry();
        }
    }

    /// How many steps the host has refused that concern no holder any more: vectors that it has not taken back, and
    /// whether the device is still on though nobody uses it. While it is not 0, call [`Pool::retry`] now and then.
    pub fn failed_steps(&self) -> usize {
        self.device().failed_steps()
    }

    /// Who has what.
    pub fn report(&self) -> PoolReport {
        self.device().report()
    }

    fn claim(&self, vector: HostVector, window: Option<WindowId>) -> Result<VectorHandle, PoolError> {
        self.device().claim(vector, window)?;
        Ok(VectorHandle::new(self.clone(), vector))
    }

    fn claim_any(
        &self,
        among: Range<u32>,
        window: Option<WindowId>,
        except: Option<HostVector>,
    ) -> Result<VectorHandle, PoolError> {
        let vector = self.device().claim_any(among, window, except)?;
        Ok(VectorHandle::new(self.clone(), vector))
    }

    fn device(&self) -> MutexGuard<'_, Device> {
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
