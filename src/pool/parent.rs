//! A PCI function that hands entries of its table on to its sub-devices.
//!
//! Invariant: a parent exists only where sub-devices can work (see [`Parent::enable`]), and none of them is ever given
//! its management vector.

use std::sync::Arc;

use super::error::{ParentError, PoolError};
use super::host_vector::HostVector;
use super::vector::VectorHandle;
use super::window::Window;
use crate::backend::Growth;

/// The parent of sub-devices, which take their vectors from its window. Clones are the same parent; the window is
/// released when the last of them and of its sub-devices has gone, in whatever order.
#[derive(Clone, Debug)]
pub struct Parent {
    table: Arc<Window>,
    management: HostVector,
}

impl Parent {
    /// From now on the vectors of `table` may be handed on. Four things are seen to first, in this order.
    ///
    /// # Errors
    /// 1. [`ParentError::NotIndependent`]: the parent's vectors must be such as can be had one by one, MSI-X's or IMS's.
    /// 2. [`ParentError::Off`]: its interrupts must be turned on, by whichever function of the device.
    /// 3. [`ParentError::CannotGrow`]: its host must take more vectors while they are.
    /// 4. [`ParentError::NoManagementVector`]: its own vector `management` must exist, held by someone.
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
        if !device.is_held(management) {
            return Err(ParentError::NoManagementVector { expected: management });
        }
        drop(device);
        Ok(Self { table, management })
    }

    /// The window that sub-devices take their vectors from.
    pub fn table(&self) -> &Window {
        &self.table
    }

    /// The vector that stays the parent's.
    pub fn management(&self) -> HostVector {
        self.management
    }

    /// One certain vector, for a sub-device that needs it at a fixed place.
    ///
    /// # Errors
    /// As [`Window::alloc_at`]; the management vector is nobody else's also while the parent has let it go.
    pub fn alloc_at(&self, vector: HostVector) -> Result<VectorHandle, PoolError> {
        if vector == self.management {
            return Err(PoolError::Reserved { asked: vector });
        }
        self.table.alloc_at(vector)
    }

    /// Any vector.
    ///
    /// # Errors
    /// As [`Window::alloc_any`].
    pub fn alloc_any(&self) -> Result<VectorHandle, PoolError> {
        self.table.alloc_any_except(Some(self.management))
    }
}
