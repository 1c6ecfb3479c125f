//! A window of a device's host vectors, set aside for whoever has it.

use std::ops::Range;

use super::Pool;
use super::device::WindowId;
use super::error::PoolError;
use super::host_vector::HostVector;
use super::vector::VectorHandle;

/// Host vectors that are set aside: only by way of the window are they given out.
///
/// Dropped, what is free of it is everybody's again at once, and what is held when its holder lets go.
#[derive(Debug)]
#[must_use = "a window that is dropped is everybody's again"]
pub struct Window {
    pool: Pool,
    vectors: Range<u32>,
    id: WindowId,
}

impl Window {
    /// For the pool, which has set the vectors aside.
    pub(super) fn new(pool: Pool, vectors: Range<u32>, id: WindowId) -> Self {
        Self { pool, vectors, id }
    }

    /// The pool that it is of.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The host vectors, from the first to before the second.
    pub fn vectors(&self) -> Range<u32> {
        self.vectors.clone()
    }

    /// One certain vector of the window.
    ///
    /// # Errors
    /// It is outside of the window, in use, or the host could not clear it of what waits for it.
    pub fn alloc_at(&self, vector: HostVector) -> Result<VectorHandle, PoolError> {
        self.pool.claim(vector, Some(self.id))
    }

    /// Any vector of the window.
    ///
    /// # Errors
    /// All are in use, or the host could clear none of those that are free.
    pub fn alloc_any(&self) -> Result<VectorHandle, PoolError> {
        self.alloc_any_except(None)
    }

    pub(super) fn alloc_any_except(&self, except: Option<HostVector>) -> Result<VectorHandle, PoolError> {
        self.pool.claim_any(self.vectors(), Some(self.id), except)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.pool.device().unreserve(self.id);
    }
}
