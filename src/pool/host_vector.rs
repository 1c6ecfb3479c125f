//! A device's own numbers of its vectors, as opposed to those of a function, which count from 0.

use std::fmt;

use crate::delivery::Vector;

/// A device's own number of one of its vectors: the entry of its MSI-X table, or its IMS slot, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct HostVector(pub u32);

impl HostVector {
    /// As the device's backend counts them.
    pub(super) fn of_device(self) -> Vector {
        Vector(self.0)
    }
}

impl fmt::Display for HostVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
