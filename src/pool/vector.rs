//! The right to one host vector: owned, never copied, given back when it is dropped.

use std::fmt;
use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::Pool;
use super::host_vector::HostVector;
use super::place::Place;
use crate::backend::{BackendError, Cookie, Programming};

/// The right to one of a device's host vectors. Nobody else can touch it, nor can its holder touch another: it is the
/// same type for every device, so a function may have vectors of several.
///
/// Dropped, it is unbound and then free. What the device signals for it from then on is nobody's: the device keeps it
/// pending, and it is dropped and counted ([`Counters::strays`](super::Counters::strays)) before anyone gets the vector
/// again. So a holder has its part of the device quiet before it lets go, as a driver has before it frees an interrupt.
#[must_use = "a host vector that is dropped is free again"]
pub struct VectorHandle(Place);

impl VectorHandle {
    /// For the pool, which has claimed it.
    pub(super) fn new(pool: Pool, vector: HostVector) -> Self {
        Self(Place { pool, vector })
    }

    /// Its number in the device.
    pub fn host_vector(&self) -> HostVector {
        self.0.vector
    }

    /// The pool that it is of.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// What the vector's interrupts carry beside their message, from its next eventfd on. It is taken away before
    /// someone else gets the vector.
    ///
    /// # Errors
    /// [`BackendError::NoCookies`] where the device has no place for one, and the backend's own.
    pub fn set_cookie(&mut self, cookie: Option<Cookie>) -> Result<(), BackendError> {
        self.pool().device().set_cookie(self.host_vector(), cookie)
    }

    pub(super) fn place(&self) -> Place {
        self.0.clone()
    }

    /// The pool's window must have been entered.
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
        self.pool().device().release(self.host_vector());
    }
}

impl fmt::Debug for VectorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VectorHandle").field(&self.host_vector()).finish()
    }
}
