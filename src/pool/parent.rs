//! A PCI function whose sub-devices allocate vectors of its table.
//!
//! Invariant: a parent exists only if sub-devices can work (see [`Parent::enable`]), and no sub-device ever gets its management
//! vector.

use std::sync::Arc;

use super::error::{ParentError, PoolError};
use super::vector::VectorHandle;
use super::vector_map::HostVector;
use super::window::Window;
use crate::backend::Growth;

/// The parent of sub-devices, which allocate their vectors in its window. Clones are the same parent. The reservation ends when
/// the last clone and the last sub-device are dropped.
#[derive(Clone, Debug)]
pub struct Parent {
    table: Arc<Window>,
    management: HostVector,
}

impl Parent {
    /// Lets sub-devices allocate the vectors of `table`.
    ///
    /// # Errors
    /// These conditions are checked in this order:
    /// 1. [`ParentError::NotIndependent`]: the device's vectors can be bound one by one, as those of MSI-X and IMS can.
    /// 2. [`ParentError::Off`]: a function of the device has the capability enabled.
    /// 3. [`ParentError::CannotGrow`]: the host can add vectors while it is enabled.
    /// 4. [`ParentError::NoManagementVector`]: the vector `management` is allocated.
    pub fn enable(table: Arc<Window>, management: HostVector) -> Result<Self, ParentError> {
        let device = table.pool().device();
        let capabilities = device.capabilities();
        if !capabilities.independent {
            return Err(ParentError::NotIndependent);
        }
        if !device.is_in_use() {
            return Err(ParentError::Off);
        }
        if capabilities.growth == Growth::Fixed {
            return Err(ParentError::CannotGrow);
        }
        if !device.is_allocated(management) {
            return Err(ParentError::NoManagementVector { expected: management });
        }
        drop(device);
        Ok(Self { table, management })
    }

    /// The window in which sub-devices allocate their vectors.
    pub fn table(&self) -> &Window {
        &self.table
    }

    /// The vector that no sub-device gets.
    pub fn management(&self) -> HostVector {
        self.management
    }

    /// Allocates the given vector, for a sub-device that needs a fixed one.
    ///
    /// # Errors
    /// As [`Window::alloc_at`]. The management vector is refused even if its handle is dropped.
    pub fn alloc_at(&self, vector: HostVector) -> Result<VectorHandle, PoolError> {
        if vector == self.management {
            return Err(PoolError::Reserved { asked: vector });
        }
        self.table.alloc_at(vector)
    }

    /// Allocates any vector.
    ///
    /// # Errors
    /// As [`Window::alloc_any`].
    pub fn alloc_any(&self) -> Result<VectorHandle, PoolError> {
        self.table.alloc_any_except(Some(self.management))
    }
}
