//! The MSI-X table as plain memory with one rule: Vector Control keeps only its mask bit (PCIe r6 §7.7.2.5).
//!
//! Owns the entries and nothing else: no enable bit, no function mask, no host. Every access of any offset and
//! width is answered; what lies beyond the last entry reads 0 and ignores writes.

use super::layout::TableSize;
use super::regs::VectorControl;
use crate::access::lanes;
use crate::delivery::{Touched, Vector};
use crate::message::MsiMessage;

/// One entry: Message Address, Message Upper Address, Message Data, Vector Control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry([u32; 4]);

/// The index of Vector Control among an entry's registers.
const CONTROL: usize = 3;

impl Entry {
    /// After reset: masked. The specification leaves the message undefined; it is blank here.
    const RESET: Self = Self([0, 0, 0, VectorControl::RESET.into_bits()]);

    pub(super) fn new(message: MsiMessage, control: VectorControl) -> Self {
        Self([message.address_low(), message.address_high(), message.data, control.into_bits()])
    }

    pub(super) fn message(&self) -> MsiMessage {
        let Self([low, high, data, _]) = *self;
        MsiMessage::from_registers(low, high, data)
    }

    pub(super) fn is_masked(&self) -> bool {
        let Self([.., control]) = *self;
        VectorControl::from_bits(control).mask()
    }

    /// What a register is to be when a value is written to it.
    fn kept(register: usize, value: u32) -> u32 {
        if register == CONTROL { VectorControl::written(value).into_bits() } else { value }
    }

    /// No message: [`MsiMessage::BLANK`].
    pub(super) fn is_blank(&self) -> bool {
        let Self([low, high, data, _]) = *self;
        low | high | data == 0
    }
}

/// The entries of one function.
#[derive(Clone, Debug)]
pub(super) struct Table {
    entries: Box<[Entry]>,
    /// From here on every entry is as after reset.
    extent: usize,
}

/// What a guest sees: not how far it has ever come.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Table {}

/// Which entry and which of its four registers a DWORD of the table is.
fn place(dword: u64) -> (usize, usize) {
    (usize::try_from(dword / 4).unwrap_or(usize::MAX), (dword % 4) as usize)
}

impl Table {
    pub(super) fn new(size: TableSize) -> Self {
        Self { entries: vec![Entry::RESET; usize::from(size.get())].into(), extent: 0 }
    }

    pub(super) fn from_entries(entries: Box<[Entry]>) -> Self {
        let last = entries.iter().rposition(|entry| *entry != Entry::RESET);
        Self { entries, extent: last.map_or(0, |last| last.saturating_add(1)) }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn reset(&mut self) {
        self.entries.fill(Entry::RESET);
        self.extent = 0;
    }

    pub(super) fn entry(&self, vector: Vector) -> Option<&Entry> {
        self.entries.get(vector.index())
    }

    /// What a change of Message Control touches: each entry that may differ from what it is after reset, and the first
    /// one in any case, as the domain is to know. A driver uses the first few of a large table, and pays for no others.
    pub(super) fn written(&self) -> Touched {
        Touched::first(self.extent.max(1) as u32)
    }

    fn register(&self, dword: u64) -> u32 {
        let (entry, register) = place(dword);
        let value = self.entries.get(entry).and_then(|Entry(registers)| registers.get(register));
        value.copied().unwrap_or_default()
    }

    #[inline]
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        match data.as_chunks_mut() {
            ([value], []) if offset.is_multiple_of(4) => *value = self.register(offset / 4).to_le_bytes(),
            _ => self.read_any(offset, data),
        }
    }

    /// Apart, as what it needs of the stack and of registers would be paid for by every read. So with writes.
    #[inline(never)]
    fn read_any(&self, offset: u64, data: &mut [u8]) {
        lanes(offset, data.len()).for_each(|lane| lane.read(self.register(lane.dword), data));
    }

    /// Writes, and tells which vectors the host has to follow: `follows` says so of an entry before and after.
    #[inline]
    pub(super) fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        follows: impl Fn(&Entry, &Entry) -> bool,
    ) -> Touched {
        match data.as_chunks() {
            // As Linux writes, and the specification asks.
            ([value], []) if offset.is_multiple_of(4) => {
                self.write_register(offset / 4, u32::from_le_bytes(*value), follows)
            }
            _ => self.write_any(offset, data, follows),
        }
    }

    #[inline(never)]
    fn write_any(&mut self, offset: u64, data: &[u8], follows: impl Fn(&Entry, &Entry) -> bool) -> Touched {
        match data.as_chunks() {
            // The other way that it allows.
            ([low, high], []) if offset.is_multiple_of(4) => {
                let (dword, of) = (offset / 4, |bytes: &[u8; 4]| u32::from_le_bytes(*bytes));
                let touched = self.write_register(dword, of(low), &follows);
                touched.and(self.write_register(dword.saturating_add(1), of(high), &follows))
            }
            _ => lanes(offset, data.len()).fold(Touched::NOTHING, |touched, lane| {
                let value = lane.merge(self.register(lane.dword), data);
                touched.and(self.write_register(lane.dword, value, &follows))
            }),
        }
    }

    #[inline]
    fn write_register(
        &mut self,
        dword: u64,
        value: u32,
        follows: impl Fn(&Entry, &Entry) -> bool,
    ) -> Touched {
        let (index, register) = place(dword);
        let Some(entry) = self.entries.get_mut(index) else { return Touched::NOTHING };
        let before = *entry;
        let Some(place) = entry.0.get_mut(register) else { return Touched::NOTHING };
        let value = Entry::kept(register, value);
        if *place == value {
            return Touched::NOTHING;
        }
        *place = value;
        self.extent = self.extent.max(index.saturating_add(1));
        if follows(&before, entry) { Touched::one(Vector(index as u32)) } else { Touched::NOTHING }
    }
}
