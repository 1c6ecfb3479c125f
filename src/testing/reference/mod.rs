//! The reference registers of a store: what its guest reads, and the message that each vector should send.
//!
//! As simple as they can be, bytes and which of them can be written, and independent of the crate's registers. Whose
//! interrupts are owed is the [`Model`](super::Model)'s, the same for all stores.

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
    /// To the table or the slots, from the first entry.
    Table(usize, Vec<u8>),
    /// To the capability, from its ID.
    Config(usize, Vec<u8>),
}

/// A message of a vector's own.
fn own_message(vector: usize, version: u8) -> MsiMessage {
    let vector = vector as u32;
    // Above 256 vectors, those of one APIC differ in the trigger bit and the vector's parity.
    let data = 0x20 + u32::from(version % 100) * 2 + vector / 256 % 2;
    MsiMessage { address: 0xfee0_0000 | u64::from(vector % 256) << 12, data: data | (vector / 512) << 14 }
}

/// A message as the first three DWORDs of an entry or a slot.
fn entry(MsiMessage { address, data }: MsiMessage) -> Vec<u8> {
    [address.to_le_bytes().as_slice(), &data.to_le_bytes()].concat()
}

/// The registers of one store as they should be.
pub trait Reference: Clone + Debug {
    /// The size and shape.
    type Layout: Clone + Debug;

    /// The crate's registers.
    type Registers: Registers + From<Self::Layout> + Debug;

    /// What a guest does.
    type Write;

    /// After power-on.
    fn at_power_on(layout: &Self::Layout) -> Self;

    /// What a device with these vectors can do.
    fn device(&self) -> Capabilities;

    /// How many vectors there are.
    fn vectors(&self) -> usize;

    /// As after power-on.
    fn reset(&mut self);

    /// The guest's write, where a step is one.
    fn write(&self, op: &Op) -> Option<Self::Write>;

    /// What a write leaves.
    fn apply(&mut self, write: &Self::Write);

    /// Makes a write to a function, once it was applied.
    fn perform<D: Domain>(&self, write: &Self::Write, function: &InterruptFunction<Self::Registers, D>);

    /// Whether the function may signal.
    fn is_enabled(&self) -> bool;

    /// The message that the guest has a vector send now; `None` where it is masked or not in use.
    fn message(&self, vector: usize) -> Option<MsiMessage>;

    /// What the vector's interrupts carry beside it.
    fn cookie(&self, _vector: usize) -> Option<Cookie> {
        None
    }

    /// Checks that a function's registers read as they should.
    fn check<D: Domain>(&self, function: &InterruptFunction<Self::Registers, D>);

    /// The pending bits that a function shows; `None` where it shows none.
    fn pending<D: Domain>(&self, function: &InterruptFunction<Self::Registers, D>) -> Option<Vec<bool>>;
}
