//! The reference: a table as bytes, a remapping table, what each vector should be, and which interrupts are still
//! owed.
//!
//! As simple as it can be, and independent of the crate's registers and domains.

use std::mem;
use std::ops::Range;

use crate::apic::ApicMessage;
use crate::message::MsiMessage;

/// What one function should look like to its guest.
#[derive(Clone, Debug)]
pub struct Model {
    table: Vec<u8>,
    enable: bool,
    function_mask: bool,
    /// Nothing is delivered.
    pub suspended: bool,
    /// Raised, and not yet delivered.
    owed: Vec<bool>,
    /// What each entry of the remapping table stands for: as written, and as of the last invalidation.
    entries: [Vec<MsiMessage>; 2],
}

impl Model {
    /// After power-on.
    pub fn new(vectors: u16) -> Self {
        let masked = [[0; 12].as_slice(), &[1, 0, 0, 0]].concat();
        let vectors = usize::from(vectors);
        let table = masked.repeat(vectors);
        let entries = [vec![MsiMessage::BLANK; 256], vec![MsiMessage::BLANK; 256]];
        let owed = vec![false; vectors];
        Self { table, enable: false, function_mask: false, suspended: false, owed, entries }
    }

    /// How many vectors the table has.
    pub fn vectors(&self) -> usize {
        self.owed.len()
    }

    /// A reset: as after power-on, and nothing is owed.
    pub fn reset(&mut self) {
        let entries = mem::take(&mut self.entries);
        *self = Self { entries, suspended: self.suspended, ..Self::new(self.vectors() as u16) };
    }

    /// A write to the table, byte by byte.
    pub fn write_table(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            if let Some(place) = self.table.get_mut(at) {
                *place = match at % 16 {
                    12 => byte & 1,
                    13..16 => 0,
                    _ => *byte,
                };
            }
        }
    }

    /// A write to the capability: only the byte with Function Mask and MSI-X Enable matters.
    pub fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let Some(byte) = 3usize.checked_sub(offset).and_then(|at| data.get(at)) {
            (self.enable, self.function_mask) = (byte & 0x80 != 0, byte & 0x40 != 0);
        }
    }

    /// Whether MSI-X is on.
    pub fn is_enabled(&self) -> bool {
        self.enable
    }

    /// The table as it should read.
    pub fn table(&self) -> &[u8] {
        &self.table
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
        let entry = &self.table[vector * 16..][..16];
        let register = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("4 bytes"));
        let message = self.remap(MsiMessage::from_registers(register(0), register(4), register(8)));
        let unmasked = !self.suspended && self.enable && !self.function_mask && entry[12] == 0;
        (unmasked && ApicMessage::try_from(message).is_ok()).then_some(message)
    }

    /// The device raised a vector.
    pub fn raise(&mut self, vector: usize) {
        self.owed[vector] = true;
    }

    /// Whether an interrupt of the vector is still to come.
    pub fn owed(&self, vector: usize) -> bool {
        self.owed[vector]
    }

    /// The guest took an interrupt; false where no vector owes one with this message. Where several do, it was
    /// that one's which comes first by `order`.
    pub fn deliver<K: Ord>(&mut self, message: MsiMessage, order: impl Fn(usize) -> K) -> bool {
        let owing = (0..self.vectors()).filter(|v| self.owed[*v] && self.live(*v) == Some(message));
        owing.min_by_key(|vector| order(*vector)).map(|vector| self.owed[vector] = false).is_some()
    }
}
