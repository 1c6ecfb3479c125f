//! The reference: a table as bytes, what each vector should be, and which interrupts are still owed.
//!
//! As simple as it can be, and independent of the crate's registers and domains.

use crate::apic::ApicMessage;
use crate::message::MsiMessage;

/// What one function should look like to its guest.
#[derive(Clone, Debug)]
pub struct Model {
    table: Vec<u8>,
    enable: bool,
    function_mask: bool,
    /// Raised, and not yet delivered.
    owed: Vec<bool>,
}

impl Model {
    /// After power-on.
    pub fn new(vectors: u16) -> Self {
        let masked = [[0; 12].as_slice(), &[1, 0, 0, 0]].concat();
        let vectors = usize::from(vectors);
        let table = masked.repeat(vectors);
        Self { table, enable: false, function_mask: false, owed: vec![false; vectors] }
    }

    /// How many vectors the table has.
    pub fn vectors(&self) -> usize {
        self.owed.len()
    }

    /// A reset: as after power-on, and nothing is owed.
    pub fn reset(&mut self) {
        *self = Self::new(self.vectors() as u16);
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

    /// The table as it should read.
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// The message that a vector should be live on.
    pub fn live(&self, vector: usize) -> Option<MsiMessage> {
        let entry = &self.table[vector * 16..][..16];
        let register = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("4 bytes"));
        let message = MsiMessage::from_registers(register(0), register(4), register(8));
        let unmasked = self.enable && !self.function_mask && entry[12] == 0;
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

    /// The guest took an interrupt; false where no vector owes one with this message.
    pub fn deliver(&mut self, message: MsiMessage) -> bool {
        let owing = (0..self.vectors()).find(|v| self.owed[*v] && self.live(*v) == Some(message));
        owing.map(|vector| self.owed[vector] = false).is_some()
    }
}
