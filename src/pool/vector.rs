//! A handle: the right to use one host vector, and how it is allocated.

use std::fmt;
use std::io;
use std::ops::Range;

use vmm_sys_util::eventfd::EventFd;

use super::Pool;
use super::device::WindowId;
use super::error::PoolError;
use super::vector_map::{HostVector, HostVectorRef};
use crate::backend::{BackendError, Cookie, Programming};

/// The right to use one host vector of a device. Nobody else can use the vector, and the handle gives access to no other one. The
/// type is the same for every device, so a function may have vectors of several devices.
///
/// Dropping the handle unbinds and frees the vector. Make the queue that signals it quiet before, as a driver does before it frees
/// an interrupt.
///
/// Interrupts meanwhile: a later signal stays pending in the device. It is dropped and counted
/// ([`Counters::strays`](super::Counters::strays)) before the vector is allocated again.
#[must_use = "dropping a handle frees its host vector"]
pub struct VectorHandle(HostVectorRef);

impl Pool {
    /// Allocates the given host vector, which must not be reserved.
    ///
    /// # Errors
    /// The vector does not exist, is reserved or in use, or the host refuses to clear its pending interrupt.
    pub fn alloc_at(&self, vector: HostVector) -> Result<VectorHandle, PoolError> {
        self.alloc_at_in(vector, None)
    }

    /// Allocates any host vector of a range that is not reserved.
    ///
    /// # Errors
    /// All vectors of the range are reserved or in use, or the host refuses to clear the free ones.
    pub fn alloc_any(&self, range: Range<u32>) -> Result<VectorHandle, PoolError> {
        self.alloc_any_in(range, None, None)
    }

    pub(super) fn alloc_at_in(
        &self,
        vector: HostVector,
        window: Option<WindowId>,
    ) -> Result<VectorHandle, PoolError> {
        self.device().alloc_at(vector, window)?;
        Ok(VectorHandle(HostVectorRef { pool: self.clone(), vector }))
    }

    pub(super) fn alloc_any_in(
        &self,
        range: Range<u32>,
        window: Option<WindowId>,
        except: Option<HostVector>,
    ) -> Result<VectorHandle, PoolError> {
        let vector = self.device().alloc_any(range, window, except)?;
        Ok(VectorHandle(HostVectorRef { pool: self.clone(), vector }))
    }
}

impl VectorHandle {
    /// The vector's number in the device.
    pub fn host_vector(&self) -> HostVector {
        self.0.vector
    }

    /// The device's pool.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Sets the cookie that the vector's interrupts carry beside their message, from its next bind on. The pool removes it before
    /// it allocates the vector again.
    ///
    /// # Errors
    /// [`BackendError::NoCookies`] if the device has none, and the backend's errors.
    pub fn set_cookie(&mut self, cookie: Option<Cookie>) -> Result<(), BackendError> {
        self.pool().device().set_cookie(self.host_vector(), cookie)
    }

    pub(super) fn host_vector_ref(&self) -> HostVectorRef {
        self.0.clone()
    }

    /// The function's window in the pool must be open.
    pub(super) fn bind(&mut self, eventfd: &EventFd) -> Result<(), BackendError> {
        self.pool().device().bind(self.host_vector(), eventfd)
    }

    pub(super) fn unbind(&mut self) -> Result<(), BackendError> {
        self.pool().device().unbind(self.host_vector())
    }

    pub(super) fn eventfd(&self) -> io::Result<EventFd> {
        self.pool().device().eventfd(self.host_vector())
    }

    pub(super) fn programming(&self) -> Programming {
        self.pool().device().vector_programming(self.host_vector())
    }

    /// The vector must not be bound.
    pub(super) fn clear_pending(&mut self) {
        self.pool().device().clear_pending(self.host_vector());
    }

    pub(super) fn is_bound(&self) -> bool {
        self.pool().device().is_bound(self.host_vector())
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pool().device().is_pending(self.host_vector())
    }
}

impl Drop for VectorHandle {
    fn drop(&mut self) {
        self.pool().device().free(self.host_vector());
    }
}

impl fmt::Debug for VectorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VectorHandle").field(&self.host_vector()).finish()
    }
}
