//! Growth off the guest's path: host vectors that an embedder's thread requests.
//!
//! What it costs to request a host vector is the host's, and long where it has much to set up. Until a vector has one, its
//! interrupts wait in the device, as the host keeps the entry masked: so nothing is lost where the guest's write does not
//! wait for it. A vector that has a host vector never waits here: it is attached, held or moved by the guest's write itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::{io, iter};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use super::Host;
use crate::backend::Backend;
use crate::delivery::{Store, Vector};
use crate::domain::REQUESTS;
use crate::domain::slot::Slot;
use crate::router::Router;

/// Dropping it calls whoever is to [grow](Host::grow). Drop it once the domain's lock is given up: who wakes up at once would
/// only wait for that, on the CPU of the guest's own access. Until then the descriptor may be silent while vectors wait; where
/// they have grown by then, it is ready for nothing, once. A panic on the way calls too, as nobody else would.
#[derive(Default)]
#[must_use]
pub(in crate::domain) struct Call(Option<Arc<OwnedFd>>);

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(growth) = &self.0 {
            // Readable is all that it has to be, and it fails only where it is.
            let _ = write(growth, &1u64.to_ne_bytes());
        }
    }
}

impl Host {
    /// A descriptor that is readable while vectors wait for [`Host::grow`], which they do from now on.
    pub(in crate::domain) fn growth(&mut self) -> io::Result<Arc<OwnedFd>> {
        match &self.growth {
            Some(growth) => Ok(growth.clone()),
            None => {
                let growth = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
                Ok(self.growth.insert(Arc::new(growth)).clone())
            }
        }
    }

    /// Of the vectors on their way up, those without a host vector wait for [`Host::grow`], if an embedder calls that. MSI's
    /// do not: a device without mask bits could not wait.
    pub(super) fn postpone(&mut self) -> Call {
        let Self { growth: Some(growth), growing, rising, slots, backend, .. } = self else {
            return Call::default();
        };
        if rising.is_empty() || !backend.capabilities().independent {
            return Call::default();
        }
        let were_none = growing.is_empty();
        rising.retain(|(vector, _)| {
            let is_idle = matches!(slots.get(*vector), None | Some(Slot::Idle { .. }));
            if is_idle {
                growing.insert(*vector);
            }
            !is_idle
        });
        Call((were_none && !growing.is_empty()).then(|| growth.clone()))
    }

    /// Brings up some of the vectors that wait for it, as the store has them now; true where others wait still.
    pub(in crate::domain) fn grow(&mut self, router: &dyn Router, store: &dyn Store) -> bool {
        let next: Vec<Vector> = iter::from_fn(|| self.growing.pop_first()).take(REQUESTS).collect();
        let rest = !self.growing.is_empty();
        if let Some(growth) = self.growth.as_deref().filter(|_| !rest) {
            // Nothing to read where nobody was called (yet).
            let _ = read(growth, &mut [0; 8]);
        }
        if !next.is_empty() {
            self.settle(router, store, next.into_iter());
        }
        rest
    }

    /// How many vectors wait for [`Host::grow`].
    pub(in crate::domain) fn growing(&self) -> usize {
        self.growing.len()
    }
}
