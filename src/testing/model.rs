//! The reference: a store's registers, a remapping table, what each vector should be, and which interrupts are
//! still owed.
//!
//! As simple as it can be, and independent of the crate's registers and domains.

use std::ops::Range;

use super::Op;
use super::reference::Reference;
use crate::apic::ApicMessage;
use crate::domain::{BusMaster, State, VectorReport};
use crate::message::MsiMessage;

/// What one function should look like to its guest.
#[derive(Clone, Debug)]
pub struct Model<R> {
    registers: R,
    /// Nothing is delivered.
    pub suspended: bool,
    /// Nothing is either while the bus does not let the function signal.
    pub bus_master: BusMaster,
    /// Raised, and not yet delivered.
    owed: Vec<bool>,
    /// What the host refuses to detach a vector from.
    clings: Vec<Option<MsiMessage>>,
    /// What each entry of the remapping table stands for: as written, and as of the last invalidation.
    entries: [Vec<MsiMessage>; 2],
}

impl<R: Reference> Model<R> {
    /// After power-on.
    pub fn new(layout: &R::Layout) -> Self {
        let registers = R::at_power_on(layout);
        let (owed, clings) = (vec![false; registers.vectors()], vec![None; registers.vectors()]);
        let entries = [vec![MsiMessage::BLANK; 256], vec![MsiMessage::BLANK; 256]];
        let bus_master = BusMaster::Enabled;
        Self { registers, suspended: false, bus_master, owed, clings, entries }
    }

    /// The registers as they should be.
    pub fn registers(&self) -> &R {
        &self.registers
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> usize {
        self.owed.len()
    }

    /// A reset: as after power-on, and nothing is owed.
    pub fn reset(&mut self) {
        self.registers.reset();
        self.owed.fill(false);
    }

    /// Another function of the same shape in its place: the remapping table is the guest's, and stays.
    pub fn replace(&mut self) {
        self.reset();
        (self.suspended, self.bus_master) = (false, BusMaster::Enabled);
    }

    /// The guest's write, where a step is one.
    pub fn write(&mut self, op: &Op) -> Option<R::Write> {
        let write = self.registers.write(op)?;
        self.apply(&write);
        Some(write)
    }

    /// Any write of the guest's.
    pub fn apply(&mut self, write: &R::Write) {
        self.registers.apply(write);
    }

    /// The guest writes an entry of its remapping table; one that is blank is not present.
    pub fn write_entry(&mut self, entry: u8, message: MsiMessage) {
        self.entries[0][usize::from(entry)] = message;
    }

    /// The guest says which entries have changed.
    pub fn invalidate(&mut self, entries: Range<usize>) {
        let [written, valid] = &mut self.entries;
        valid[entries.clone()].copy_from_slice(&written[entries]);
    }

    /// What the remapping unit makes of a message: those that name an entry have bit 4 of an APIC's address.
    fn remap(&self, message: MsiMessage) -> MsiMessage {
        if message.address & !0xf_ffff != 0xfee0_0000 || message.address & 0x10 == 0 {
            return message;
        }
        let handle = message.address >> 5 & 0x7fff | (message.address & 4) << 13;
        let subhandle = if message.address & 8 == 0 { 0 } else { u64::from(message.data) };
        let entry = usize::try_from(handle + subhandle).expect("64 bits");
        self.entries[1].get(entry).copied().unwrap_or(MsiMessage::BLANK)
    }

    /// The message that a vector should be live on.
    pub fn live(&self, vector: usize) -> Option<MsiMessage> {
        let is_held = self.suspended || self.bus_master == BusMaster::Disabled;
        let message = self.registers.message(vector).filter(|_| !is_held)?;
        Some(self.remap(message)).filter(|message| ApicMessage::try_from(*message).is_ok())
    }

    /// The device raised a vector.
    pub fn raise(&mut self, vector: usize) {
        self.owed[vector] = true;
    }

    /// A vector as it is now: where the host refuses to detach it, it is delivered as it was, whatever the guest wants.
    /// What it is delivered as then.
    pub fn cling(&mut self, vector: usize, report: Option<&VectorReport>) -> Option<MsiMessage> {
        let clings = report.and_then(clings_to);
        self.clings[vector] = clings;
        clings
    }

    /// Whether an interrupt of the vector is still to come.
    pub fn owed(&self, vector: usize) -> bool {
        self.owed[vector]
    }

    /// The guest took an interrupt; false where no vector owes one with this message. Where several do, it was
    /// that one's which comes first by `order`.
    pub fn deliver<K: Ord>(&mut self, message: MsiMessage, order: impl Fn(usize) -> K) -> bool {
        let is_on = |v: usize| self.live(v) == Some(message) || self.clings[v] == Some(message);
        let owing = (0..self.vectors()).filter(|v| self.owed[*v] && is_on(*v));
        owing.min_by_key(|vector| order(*vector)).map(|vector| self.owed[vector] = false).is_some()
    }
}

/// What a vector is live on because the host has refused to detach it.
pub(super) fn clings_to(vector: &VectorReport) -> Option<MsiMessage> {
    let is_refused = |error: &String| error.contains("could not detach");
    let refused = vector.state == State::Live && vector.error.as_ref().is_some_and(is_refused);
    vector.message.filter(|_| refused)
}
