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

    /// What a lane makes of a register; `None` where that is what it has already.
    fn written(&self, index: usize, lane: &Lane, data: &[u8]) -> Option<u32> {
        let before = *self.0.get(index)?;
        let merged = lane.merge(before, data);
        let after = if index == CONTROL { VectorControl::written(merged).into_bits() } else { merged };
        (after != before).then_some(after)
    }

    fn set(&mut self, index: usize, value: u32) {
        if let Some(register) = self.0.get_mut(index) {
            *register = value;
        }
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

/// Which entry and which of its four registers a lane is for.
fn place(lane: &Lane) -> (usize, usize) {
    (usize::try_from(lane.dword / 4).unwrap_or(usize::MAX), (lane.dword % 4) as usize)
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

    #[inline]
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        for lane in lanes(offset, data.len()) {
            let (entry, register) = place(&lane);
            let value = self.entries.get(entry).and_then(|Entry(registers)| registers.get(register));
            lane.read(value.copied().unwrap_or_default(), data);
        }
    }

    /// Writes, and tells for which vectors `answer` is now another than before.
    #[inline]
    pub(super) fn write<T: PartialEq>(
        &mut self,
        offset: u64,
        data: &[u8],
        answer: impl Fn(&Entry) -> T,
    ) -> Touched {
        let mut touched = Touched::NOTHING;
        for lane in lanes(offset, data.len()) {
            let (index, register) = place(&lane);
            let Some(entry) = self.entries.get_mut(index) else { continue };
            let Some(value) = entry.written(register, &lane, data) else { continue };
            let before = answer(entry);
            entry.set(register, value);
            self.extent = self.extent.max(index.saturating_add(1));
            if answer(entry) != before {
                touched = touched.and(Touched::one(Vector(index as u32)));
            }
        }
        touched
    }
}
