//! The report of a pool: the state of its device and of each vector, and counters.

use super::vector_map::HostVector;
use crate::backend::Capabilities;
use crate::counter::Increment;

/// What has happened since the pool was created. The counters never decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counters {
    /// Host vectors that were allocated.
    pub claims: u64,
    /// Interrupts that were pending for a free host vector when it was allocated, and were dropped. Any number of them for one
    /// vector count as one, because the device has one pending bit.
    pub strays: u64,
    /// How often the capability was enabled in the host.
    pub opens: u64,
    /// How often it was disabled.
    pub closes: u64,
    /// Steps that the host refused.
    pub host_failures: u64,
}

impl Counters {
    pub(super) fn fail(&mut self) {
        self.host_failures.increment();
    }
}

/// The state of a host vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Holding {
    /// It has no handle.
    Free,
    /// It has a handle and is not bound.
    Held,
    /// It has a handle and is bound to an eventfd.
    Bound,
    /// Its handle is dropped, but the host refuses to unbind it. It signals an eventfd that nobody reads.
    Orphaned,
}

/// The report of one host vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HostVectorReport {
    /// Its number in the device.
    pub vector: HostVector,
    /// Its state.
    pub holding: Holding,
    /// It belongs to a window.
    pub reserved: bool,
    /// It is free, and an interrupt is pending for it.
    pub stray: bool,
}

/// The report of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolReport {
    /// The device's capabilities.
    pub capabilities: Capabilities,
    /// The capability is enabled in the host.
    pub open: bool,
    /// How many functions have it enabled.
    pub windows_open: u32,
    /// Why the host refuses to disable the capability although no function has it enabled.
    pub error: Option<String>,
    /// Counters since the pool was created.
    pub counters: Counters,
    /// Every host vector that is not free, is reserved, or has a pending interrupt.
    pub vectors: Vec<HostVectorReport>,
}
