//! A mutex that a panic does not poison.
//!
//! An embedder's backend, router, stage or hook may panic under a lock. The lock stays usable, because the
//! value behind it is valid whenever code of the embedder runs:
//!
//! - A domain's host and a software domain's latches change vector by vector. The vector that a panic has interrupted is still
//!   owed, and the next call works on it.
//! - A pool's device has one holder, or none, for each host vector.
//! - A publisher adds a slot only after the allocator has answered with a GSI. The hypervisor runs without the lock, and dropping a
//!   commit answers its requests and returns the table.
//! - A line has the route to which its eventfd is attached. It changes only after the router's call has returned.
//! - A store changes a slot after it has read guest memory.
//! - Budgets, the functions of a remapping unit, deferred routes and the views of a pool change without a call to the embedder.

use std::sync::{Condvar, MutexGuard, PoisonError, TryLockError};

/// As [`std::sync::Mutex`], without poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while another thread holds the mutex.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits on `condvar` while `condition` holds.
pub(crate) fn wait_while<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    condvar.wait_while(guard, condition).unwrap_or_else(PoisonError::into_inner)
}
