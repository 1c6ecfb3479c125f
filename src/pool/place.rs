//! Which host vector is whose: the two index spaces, and the way from one to the other.
//!
//! A function counts its vectors from 0 ([`Vector`]); a device numbers what it has ([`HostVector`]), which is what
//! its queues are told. One lock a function, innermost: held for no call.

use std::sync::Arc;

use super::Pool;
use super::host_vector::HostVector;
use crate::delivery::Vector;
use crate::lock::Mutex;

/// Where a function's vector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The device's pool.
    pub pool: Pool,
    /// Its number in the device.
    pub vector: HostVector,
}

/// Where a function's vectors are: a view that stays when the function has been given to its domain, for a device
/// model to tell a queue which interrupt to raise, or a guest which handle to use. Clones are the same view.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Mutex<Vec<Option<Place>>>>);

impl Places {
    /// Where `vector` is: `None` where there is no such vector, it has no host vector now, or the function is gone.
    /// One step, however many there are.
    pub fn get(&self, vector: Vector) -> Option<Place> {
        self.0.lock().get(vector.index()).cloned().flatten()
    }

    pub(super) fn set(&self, index: usize, place: Option<Place>) {
        let mut places = self.0.lock();
        if places.len() <= index {
            places.resize(index.saturating_add(1), None);
        }
        let before = places.get_mut(index).and_then(|to| std::mem::replace(to, place));
        // What is dropped here may be the last of a pool: not under the lock.
        drop(places);
        drop(before);
    }

    pub(super) fn clear(&self) {
        let before = std::mem::take(&mut *self.0.lock());
        drop(before);
    }
}
