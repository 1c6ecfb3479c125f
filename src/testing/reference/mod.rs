//! The reference registers of a store: their values as a guest reads them, and the present message of each
//! vector.
//!
//! They are as simple as possible: bytes, and which of them are writable. They are independent of the crate's
//! registers. The [`Model`](super::Model) tracks owed interrupts in the same way for all stores.

mod msi;
mod msix;
mod queue;
mod slots;

use std::fmt::Debug;

pub use msi::MsiReference;
pub use msix::MsixReference;
pub use queue::{QueueReference, QueueWrite};
pub use slots::{SlotShape, SlotsReference};

use super::Op;
use crate::backend::{Capabilities, Cookie};
use crate::domain::Domain;
use crate::function::InterruptFunction;
use crate::message::MsiMessage;
use crate::registers::Registers;

/// A guest's write to registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// To the table or the slots, from the first entry on.
    Table(usize, Vec<u8>),
    /// To the capability, from its ID on.
    Config(usize, Vec<u8>),
}

/// A message of the vector's own.
fn own_message(vector: usize, version: u8) -> MsiMessage {
    let vector = vector as u32;
    // Above 256 vectors, the vectors of one APIC differ in the trigger bit and in the parity of their APIC
    // vector.
    let data = 0x20 + u32::from(version % 100) * 2 + vector / 256 % 2;
    MsiMessage { address: 0xfee0_0000 | u64::from(vector % 256) << 12, data: data | (vector / 512) << 14 }
}

/// A message as the first three DWORDs of an entry or a slot.
fn entry(MsiMessage { address, data }: MsiMessage) -> Vec<u8> {
    [address.to_le_bytes().as_slice(), &data.to_le_bytes()].concat()
}

/// The expected registers of one store.
pub trait Reference: Clone + Debug {
    /// The layout of the store.
    type Layout: Clone + Debug;

    /// The crate's registers.
    type Registers: Registers + From<Self::Layout> + Debug;

    /// A write of the guest.
    type Write;

    /// The registers after power-on.
    fn at_power_on(layout: &Self::Layout) -> Self;

    /// The features of a device with these vectors.
    fn device(&self) -> Capabilities;

    /// How many vectors there are.
    fn vectors(&self) -> usize;

    /// Sets the registers to their values after power-on.
    fn reset(&mut self);

    /// The guest's write, if the step is one.
    fn write(&self, op: &Op) -> Option<Self::Write>;

    /// Applies a write to the reference.
    fn apply(&mut self, write: &Self::Write);

    /// Performs a write on a function, after it was applied.
    fn perform<D: Domain>(&self, write: &Self::Write, function: &InterruptFunction<Self::Registers, D>);

    /// Whether the function may signal.
    fn is_enabled(&self) -> bool;

    /// The present message of a vector. `None` if the vector is masked or unused.
    fn message(&self, vector: usize) -> Option<MsiMessage>;

    /// The cookie of a vector's interrupts.
    fn cookie(&self, _vector: usize) -> Option<Cookie> {
        None
    }

    /// Checks that a function's registers read as expected.
    fn check<D: Domain>(&self, function: &InterruptFunction<Self::Registers, D>);

    /// The pending bits that a function shows, or `None` if its store has none.
    fn pending<D: Domain>(&self, function: &InterruptFunction<Self::Registers, D>) -> Option<Vec<bool>>;
}
