//! The reference model of a function: the registers of a store, a remapping table, the delivery of each
//! vector, and the interrupts that are still owed.
//!
//! It is as simple as possible, and independent of the crate's registers and domains.

use std::ops::Range;

use super::Op;
use super::reference::Reference;
use crate::apic::ApicMessage;
use crate::domain::{BusMaster, State, VectorReport};
use crate::message::MsiMessage;

/// The expected view of one function by its guest.
#[derive(Clone, Debug)]
pub struct Model<R> {
    registers: R,
    /// While it is suspended, nothing is delivered.
    pub suspended: bool,
    /// While Bus Master Enable is off, nothing is delivered.
    pub bus_master: BusMaster,
    /// Vectors that were raised and not yet delivered.
    owed: Vec<bool>,
    /// The message of each vector that the host refuses to detach.
    stuck: Vec<Option<MsiMessage>>,
    /// The message of each entry of the remapping table: as written, and as of the last invalidation.
    entries: [Vec<MsiMessage>; 2],
}

impl<R: Reference> Model<R> {
    /// The model after power-on.
    pub fn new(layout: &R::Layout) -> Self {
        let registers = R::at_power_on(layout);
        let (owed, stuck) = (vec![false; registers.vectors()], vec![None; registers.vectors()]);
        let entries = [vec![MsiMessage::BLANK; 256], vec![MsiMessage::BLANK; 256]];
        let bus_master = BusMaster::Enabled;
        Self { registers, suspended: false, bus_master, owed, stuck, entries }
    }

    /// The expected registers.
    pub fn registers(&self) -> &R {
        &self.registers
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> usize {
        self.owed.len()
    }

    /// Resets the function: registers as after power-on, and nothing owed.
    pub fn reset(&mut self) {
        self.registers.reset();
        self.owed.fill(false);
    }

    /// Replaces the function by another one of the same layout. The remapping table belongs to the guest, and
    /// stays.
    pub fn replace(&mut self) {
        self.reset();
        (self.suspended, self.bus_master) = (false, BusMaster::Enabled);
    }

    /// The guest's write, if the step is one.
    pub fn write(&mut self, op: &Op) -> Option<R::Write> {
        let write = self.registers.write(op)?;
        self.apply(&write);
        Some(write)
    }

    /// Applies a write of the guest.
    pub fn apply(&mut self, write: &R::Write) {
        self.registers.apply(write);
    }

    /// The guest writes an entry of its remapping table. A blank message means not present.
    pub fn write_entry(&mut self, entry: u8, message: MsiMessage) {
        self.entries[0][usize::from(entry)] = message;
    }

    /// The guest invalidates entries.
    pub fn invalidate(&mut self, entries: Range<usize>) {
        let [written, valid] = &mut self.entries;
        valid[entries.clone()].copy_from_slice(&written[entries]);
    }

    /// The translation of a message. Bit 4 of an APIC address marks a message that names an entry.
    fn remap(&self, message: MsiMessage) -> MsiMessage {
        if message.address & !0xf_ffff != 0xfee0_0000 || message.address & 0x10 == 0 {
            return message;
        }
        let handle = message.address >> 5 & 0x7fff | (message.address & 4) << 13;
        let subhandle = if message.address & 8 == 0 { 0 } else { u64::from(message.data) };
        let entry = usize::try_from(handle + subhandle).expect("64 bits");
        self.entries[1].get(entry).copied().unwrap_or(MsiMessage::BLANK)
    }

    /// The message on which a vector should be live.
    pub fn live(&self, vector: usize) -> Option<MsiMessage> {
        let is_held = self.suspended || self.bus_master == BusMaster::Disabled;
        let message = self.registers.message(vector).filter(|_| !is_held)?;
        Some(self.remap(message)).filter(|message| ApicMessage::try_from(*message).is_ok())
    }

    /// The device has raised a vector.
    pub fn raise(&mut self, vector: usize) {
        self.owed[vector] = true;
    }

    /// Records whether the host refuses to detach a vector, which is then delivered on its old message
    /// whatever the guest sets. Returns this message.
    pub fn set_stuck(&mut self, vector: usize, report: Option<&VectorReport>) -> Option<MsiMessage> {
        let stuck = report.and_then(stuck_on);
        self.stuck[vector] = stuck;
        stuck
    }

    /// Whether the vector owes an interrupt.
    pub fn owed(&self, vector: usize) -> bool {
        self.owed[vector]
    }

    /// The guest has got an interrupt. Returns false if no vector owes one with this message. If several do,
    /// the first by `order` has delivered it.
    pub fn deliver<K: Ord>(&mut self, message: MsiMessage, order: impl Fn(usize) -> K) -> bool {
        let is_on = |v: usize| self.live(v) == Some(message) || self.stuck[v] == Some(message);
        let owing = (0..self.vectors()).filter(|v| self.owed[*v] && is_on(*v));
        owing.min_by_key(|vector| order(*vector)).map(|vector| self.owed[vector] = false).is_some()
    }
}

/// The message of a live vector that the host refuses to detach.
pub(super) fn stuck_on(vector: &VectorReport) -> Option<MsiMessage> {
    let is_refused = |error: &String| error.contains("could not detach");
    let refused = vector.state == State::Live && vector.error.as_ref().is_some_and(is_refused);
    vector.message.filter(|_| refused)
}
