//! A window: a reserved range of a device's host vectors.

use std::ops::Range;

use super::Pool;
use super::device::WindowId;
use super::error::PoolError;
use super::vector::VectorHandle;
use super::vector_map::HostVector;
use crate::msi::MessageCount;

/// Reserved host vectors. They are allocated only through this window.
///
/// Dropping it ends the reservation. Vectors that are allocated stay so until their handle is dropped.
#[derive(Debug)]
#[must_use = "dropping a window ends its reservation"]
pub struct Window {
    pool: Pool,
    vectors: Range<u32>,
    id: WindowId,
}

impl Pool {
    /// Reserves all host vectors of a range, or none.
    ///
    /// # Errors
    /// One of them does not exist, is reserved, or is in use.
    pub fn reserve(&self, vectors: Range<u32>) -> Result<Window, PoolError> {
        let id = self.device().reserve(vectors.clone())?;
        Ok(Window { pool: self.clone(), vectors, id })
    }

    /// Reserves the first free block of contiguous vectors that is aligned to its size, as multi-message MSI needs it
    /// (PCIe r6 §6.1.4).
    ///
    /// # Errors
    /// There is no such block.
    pub fn reserve_block(&self, size: MessageCount) -> Result<Window, PoolError> {
        let (size, all) = (size.get(), self.capabilities().vectors);
        let blocks = (0..all).step_by(size as usize).map(|first| first..first.saturating_add(size));
        let mut windows = blocks.filter_map(|vectors| self.reserve(vectors).ok());
        windows.next().ok_or(PoolError::Exhausted { range: 0..all })
    }
}

impl Window {
    /// The device's pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The reserved host vectors.
    pub fn vectors(&self) -> Range<u32> {
        self.vectors.clone()
    }

    /// Allocates the given vector of the window.
    ///
    /// # Errors
    /// The vector is not in the window or in use, or the host refuses to clear its pending interrupt.
    pub fn alloc_at(&self, vector: HostVector) -> Result<VectorHandle, PoolError> {
        self.pool.alloc_at_in(vector, Some(self.id))
    }

    /// Allocates any vector of the window.
    ///
    /// # Errors
    /// All vectors are in use, or the host refuses to clear the free ones.
    pub fn alloc_any(&self) -> Result<VectorHandle, PoolError> {
        self.alloc_any_except(None)
    }

    pub(super) fn alloc_any_except(&self, except: Option<HostVector>) -> Result<VectorHandle, PoolError> {
        self.pool.alloc_any_in(self.vectors(), Some(self.id), except)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.pool.device().unreserve(self.id);
    }
}
