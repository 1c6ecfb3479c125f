//! One physical device's host vectors, divided among several guest functions.
//!
//! A [`Pool`] owns the device's [`Backend`](crate::Backend) and records which of its vectors are allocated. A [`VectorHandle`] is
//! one allocated vector: a given one, or any of a range. A [`Window`] reserves a range of vectors. A [`LogicalFunction`] is a
//! backend whose vectors count from 0, made of handles; an ordinary [`InterruptFunction`](crate::InterruptFunction) runs on it. A
//! [`Parent`] is a PCI function whose sub-devices allocate its vectors when their guest first uses one. The embedder decides how
//! many vectors each function gets: the pool has no policy.
//!
//! Invariant: a host vector has at most one handle, only the handle's owner can use the vector, and a newly allocated vector has no
//! pending interrupt. The device's capability is enabled while at least one function has it enabled. One function therefore never
//! disables the MSI-X of the others. Handles, windows, functions, parents and pools may be dropped in any order.
//!
//! Locking: one lock a pool, held during backend calls and taken after a domain's. Nothing under it calls the pool. A thread holds
//! one pool's lock at a time, except if a pool's backend is itself a function of another pool: then it takes the lock of the
//! pool with the function first.
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
//! // The device's backend is for example a `vfio::VfioMsix`. The physical function reserves the first 32 vectors, and uses
//! // vector 0 for its management interrupt.
//! let pool = Pool::new(device);
//! let table = Arc::new(pool.reserve(0..32)?);
//! let management = table.alloc_at(HostVector(0))?;
//! let queues = [table.alloc_any()?, table.alloc_any()?];
//! let mut physical = LogicalFunction::new([management].into_iter().chain(queues));
//!
//! // Another function gets two of the other vectors. Its guest sees them as 0 and 1.
//! let other = LogicalFunction::new([pool.alloc_any(32..64)?, pool.alloc_at(HostVector(40))?]);
//! assert_eq!(other.vector_map().get(Vector(1)).map(|host| host.vector), Some(HostVector(40)));
//!
//! // Each function is given to a `MsixFunction::new(layout, router, physical)`, which calls `open` when the guest enables MSI-X.
//! physical.open(3)?;
//! let parent = Parent::enable(table, HostVector(0))?;
//! let mut sub_device = parent.sub_device(8);
//! let vector_map = sub_device.vector_map();
//!
//! // It calls `bind` when the guest first unmasks vector 5. The sub-device then allocates one of the parent's vectors.
//! assert_eq!(vector_map.get(Vector(5)), None);
//! sub_device.open(8)?;
//! # let eventfd = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK)?;
//! sub_device.bind(Vector(5), &eventfd)?;
//! assert_eq!(vector_map.get(Vector(5)).map(|host| host.vector), Some(HostVector(3)));
//! # Ok(())
//! # }
//! ```

mod device;
mod error;
mod function;
mod parent;
mod report;
mod shared_device;
#[cfg(test)]
mod tests;
mod vector;
mod vector_map;
mod window;

pub use error::{ParentError, PoolError};
pub use function::LogicalFunction;
pub use parent::Parent;
pub use report::{Counters, Holding, HostVectorReport, PoolReport};
pub use shared_device::Pool;
pub use vector::VectorHandle;
pub use vector_map::{HostVector, HostVectorRef, VectorMap};
pub use window::Window;
