//! The reference registers of a capability: what its guest reads, and the message that each vector should send.
//!
//! As simple as they can be, bytes and which of them can be written, and independent of the crate's registers. Whose
//! interrupts are owed is the [`Model`](super::Model)'s, the same for all capabilities.

mod msi;
mod msix;

use std::fmt::Debug;

pub use msi::MsiReference;
pub use msix::MsixReference;

use super::Op;
use crate::backend::Capabilities;
use crate::capability::Capability;
use crate::domain::Domain;
use crate::function::Function;
use crate::message::MsiMessage;

/// A guest's write to a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// To the table, from its first entry.
    Table(usize, Vec<u8>),
    /// To the capability, from its ID.
    Config(usize, Vec<u8>),
}

/// The registers of one capability as they should be.
pub trait Reference: Clone + Debug {
    /// The size and shape.
    type Layout: Clone + Debug;

    /// The crate's registers.
    type Capability: Capability<Layout = Self::Layout> + Debug;

    /// After power-on.
    fn at_power_on(layout: &Self::Layout) -> Self;

    /// What a device with these vectors can do.
    fn device(&self) -> Capabilities;

    /// How many vectors there are.
    fn vectors(&self) -> usize;

    /// As after power-on.
    fn reset(&mut self);

    /// The guest's write, where a step is one.
    fn write(&self, op: &Op) -> Option<Write>;

    /// What a write leaves.
    fn apply(&mut self, write: &Write);

    /// Makes a write to a function.
    fn perform<D: Domain>(write: &Write, function: &Function<Self::Capability, D>);

    /// Whether the capability is on.
    fn is_enabled(&self) -> bool;

    /// The message that the guest has a vector send now; `None` where it is masked or not in use.
    fn message(&self, vector: usize) -> Option<MsiMessage>;

    /// Checks that a function's registers read as they should.
    fn check<D: Domain>(&self, function: &Function<Self::Capability, D>);

    /// The pending bits that a function shows; `None` where its capability has none.
    fn pending<D: Domain>(&self, function: &Function<Self::Capability, D>) -> Option<Vec<bool>>;
}
