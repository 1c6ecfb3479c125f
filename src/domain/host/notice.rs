//! The wake-up of the thread that binds deferred vectors.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::write;

/// Wakes the thread that [binds deferred vectors](super::Host::bind_deferred) when it is dropped, also by a panic.
///
/// Drop it after the domain's lock is released: otherwise the thread would wake up only to wait for the lock. The eventfd may be
/// signalled slightly after work is queued. One spurious wake-up is possible.
#[derive(Default)]
#[must_use]
pub(in crate::domain) struct Notice(Option<Arc<OwnedFd>>);

impl Notice {
    /// A notice that signals `deferred_bind`, if there is one.
    pub(super) fn new(deferred_bind: Option<Arc<OwnedFd>>) -> Self {
        Self(deferred_bind)
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        if let Some(deferred_bind) = &self.0 {
            // It fails only where the eventfd is full, and then it is readable already.
            let _ = write(deferred_bind, &1u64.to_ne_bytes());
        }
    }
}
