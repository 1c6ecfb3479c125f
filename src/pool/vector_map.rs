//! The two numberings of vectors, and the map from one to the other.
//!
//! A function counts its vectors from 0 ([`Vector`]). A device has its own numbers ([`HostVector`]), which a device model writes to
//! the device's queues. Locking: one lock a map, the innermost. It is held during no call.

use std::fmt;
use std::sync::Arc;

use super::Pool;
use crate::delivery::Vector;
use crate::lock::Mutex;

/// A device's own number of one of its vectors, from 0: its entry in the MSI-X table, or its IMS slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct HostVector(pub u32);

impl HostVector {
    /// The same number for the device's backend.
    pub(super) fn of_device(self) -> Vector {
        Vector(self.0)
    }
}

impl fmt::Display for HostVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A host vector and the device that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostVectorRef {
    /// The device's pool.
    pub pool: Pool,
    /// The vector's number in the device.
    pub vector: HostVector,
}

/// The host vector of each vector of a function. It stays valid after the function was given to its domain. A device model looks
/// up here which interrupt a queue must raise, or which handle to give to a guest. Clones are the same map.
#[derive(Clone, Debug, Default)]
pub struct VectorMap(Arc<Mutex<Vec<Option<HostVectorRef>>>>);

impl VectorMap {
    /// The host vector of `vector`. `None` if the function has no such vector, if the vector has no host vector now, or if the
    /// function was dropped. It takes constant time.
    pub fn get(&self, vector: Vector) -> Option<HostVectorRef> {
        self.0.lock().get(vector.index()).cloned().flatten()
    }

    pub(super) fn set(&self, index: usize, host: Option<HostVectorRef>) {
        let mut map = self.0.lock();
        if map.len() <= index {
            map.resize(index.saturating_add(1), None);
        }
        let before = map.get_mut(index).and_then(|entry| std::mem::replace(entry, host));
        // Not under the lock: it may be the last reference to a pool.
        drop(map);
        drop(before);
    }

    pub(super) fn clear(&self) {
        let before = std::mem::take(&mut *self.0.lock());
        drop(before);
    }
}
