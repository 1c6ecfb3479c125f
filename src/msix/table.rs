//! The MSI-X table as plain memory with one rule: Vector Control keeps only its mask bit (PCIe r6 §7.7.2.5).
//!
//! Owns the entries and nothing else: no enable bit, no function mask, no host. Every access of any offset and
//! width is answered; what lies beyond the last entry reads 0 and ignores writes.

use super::layout::TableSize;
use super::regs::VectorControl;
use crate::access::{Lane, lanes};
use crate::delivery::{Touched, Vector};
use crate::message::MsiMessage;

/// One entry: Message Address, Message Upper Address, Message Data, Vector Control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    message: MsiMessage,
    control: VectorControl,
}

impl Entry {
    /// After reset: masked. The specification leaves the message undefined; it is blank here.
    const RESET: Self = Self { message: MsiMessage::BLANK, control: VectorControl::RESET };

    pub(super) fn new(message: MsiMessage, control: VectorControl) -> Self {
        Self { message, control }
    }

    pub(super) fn message(self) -> MsiMessage {
        self.message
    }

    pub(super) fn is_masked(self) -> bool {
        self.control.mask()
    }

    fn register(self, index: u64) -> u32 {
        match index {
            0 => self.message.address_low(),
            1 => self.message.address_high(),
            2 => self.message.data,
            _ => self.control.into_bits(),
        }
    }

    fn with_register(self, index: u64, value: u32) -> Self {
        let MsiMessage { data, .. } = self.message;
        let (low, high) = (self.message.address_low(), self.message.address_high());
        let message = match index {
            0 => MsiMessage::from_registers(value, high, data),
            1 => MsiMessage::from_registers(low, value, data),
            2 => MsiMessage::from_registers(low, high, value),
            _ => return Self { control: VectorControl::written(value), ..self },
        };
        Self { message, ..self }
    }
}

/// The entries of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table(Box<[Entry]>);

/// Which entry and which of its four registers a lane is for.
fn place(lane: &Lane) -> (usize, u64) {
    (usize::try_from(lane.dword / 4).unwrap_or(usize::MAX), lane.dword % 4)
}

impl Table {
    pub(super) fn new(size: TableSize) -> Self {
        Self(vec![Entry::RESET; usize::from(size.get())].into())
    }

    pub(super) fn from_entries(entries: Box<[Entry]>) -> Self {
        Self(entries)
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.0
    }

    pub(super) fn reset(&mut self) {
        self.0.fill(Entry::RESET);
    }

    pub(super) fn entry(&self, vector: Vector) -> Option<Entry> {
        self.0.get(vector.index()).copied()
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        for lane in lanes(offset, data.len()) {
            let (entry, register) = place(&lane);
            let value = self.0.get(entry).map_or(0, |entry| entry.register(register));
            lane.read(value, data);
        }
    }

    /// Writes, and tells for which vectors `answer` is now another than before.
    pub(super) fn write<T: PartialEq>(
        &mut self,
        offset: u64,
        data: &[u8],
        answer: impl Fn(Entry) -> T,
    ) -> Touched {
        let mut touched = Touched::NOTHING;
        for lane in lanes(offset, data.len()) {
            let (index, register) = place(&lane);
            let Some(entry) = self.0.get_mut(index) else { continue };
            let written = entry.with_register(register, lane.merge(entry.register(register), data));
            if answer(written) != answer(*entry) {
                touched = touched.and(Touched::one(Vector(index as u32)));
            }
            *entry = written;
        }
        touched
    }
}
