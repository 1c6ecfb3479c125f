//! A view of a pool: who has what of the device, and what was done so far.

use super::host_vector::HostVector;
use crate::backend::Capabilities;
use crate::counter::Increment;

/// What a pool has done and refused since it was made. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counters {
    /// Host vectors given to holders.
    pub claims: u64,
    /// Interrupts that waited for a host vector which nobody held when it was given out: dropped. Any number of them
    /// for one vector count as one, as the device keeps one bit.
    pub strays: u64,
    /// Times the device's interrupts were turned on in the host.
    pub opens: u64,
    /// Times they were turned off.
    pub closes: u64,
    /// Steps that the host refused.
    pub host_failures: u64,
}

impl Counters {
    pub(super) fn fail(&mut self) {
        self.host_failures.increment();
    }
}

/// Who has a host vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Holding {
    /// Nobody.
    Free,
    /// Someone, and it signals nothing.
    Held,
    /// Someone, and it signals an eventfd.
    Bound,
    /// Nobody any more, but the host has not taken it back: it signals what nobody reads, and is given to nobody.
    Orphaned,
}

/// One host vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HostVectorReport {
    /// Its number.
    pub vector: HostVector,
    /// Who has it.
    pub holding: Holding,
    /// It is set aside for a window.
    pub reserved: bool,
    /// Nobody holds it and the device has signalled it.
    pub stray: bool,
}

/// A pool at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolReport {
    /// What the device can do.
    pub capabilities: Capabilities,
    /// Its interrupts are turned on in the host.
    pub open: bool,
    /// How many functions have theirs on.
    pub windows_open: u32,
    /// Why the device's interrupts are still on though no function's are, where that stands.
    pub error: Option<String>,
    /// What was done so far.
    pub counters: Counters,
    /// Every host vector that is held, reserved or signalled.
    pub vectors: Vec<HostVectorReport>,
}
