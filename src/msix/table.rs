//! The MSI-X table, which all vCPUs may access at the same time (PCIe r6 §7.7.2.5 to §7.7.2.8). Of Vector
//! Control, only the mask bit is writable.
//!
//! Owns the entries. The enable bit and the function mask belong to `registers.rs`. An access may have any
//! offset and width. Bytes beyond the last entry read 0 and ignore writes.
//!
//! Locking: none. An entry is two QWORDs. Each write of a QWORD, or of a part of it, is one atomic step, and
//! reads are wait-free. The order in which an entry's halves are read matters: see `registers.rs`.

use super::atomic::Ordering::SeqCst;
use super::atomic::{AtomicU64, AtomicUsize};
use super::layout::TableSize;
use super::regs::VectorControl;
use crate::access::lanes;
use crate::delivery::{Touched, Vector};
use crate::message::MsiMessage;

/// The value of an entry: Message Address with Message Upper Address, then Message Data with Vector Control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry([u64; 2]);

/// The bits of each QWORD that a write may change.
const WRITABLE: [u64; 2] = [u64::MAX, (VectorControl::WRITABLE.into_bits() as u64) << 32 | u32::MAX as u64];

impl Entry {
    /// The value after reset: masked. The specification leaves the message undefined; here it is blank.
    const RESET: Self = Self([0, (VectorControl::RESET.into_bits() as u64) << 32]);

    pub(super) fn new(message: MsiMessage, control: VectorControl) -> Self {
        Self([message.address, u64::from(control.into_bits()) << 32 | u64::from(message.data)])
    }

    pub(super) fn message(&self) -> MsiMessage {
        let Self([address, data_and_control]) = *self;
        MsiMessage { address, data: data_and_control as u32 }
    }

    fn control(&self) -> VectorControl {
        let Self([_, data_and_control]) = *self;
        VectorControl::from_bits((data_and_control >> 32) as u32)
    }

    pub(super) fn is_masked(&self) -> bool {
        self.control().mask()
    }

    /// Whether the message is [`MsiMessage::BLANK`].
    pub(super) fn is_blank(&self) -> bool {
        self.message() == MsiMessage::BLANK
    }
}

/// An entry in the table, which vCPUs share.
#[derive(Debug)]
struct AtomicEntry([AtomicU64; 2]);

impl AtomicEntry {
    fn new(Entry([address, data_and_control]): Entry) -> Self {
        Self([AtomicU64::new(address), AtomicU64::new(data_and_control)])
    }

    fn store(&self, Entry([address, data_and_control]): Entry) {
        let Self([first, second]) = self;
        first.store(address, SeqCst);
        second.store(data_and_control, SeqCst);
    }

    /// Reads the mask bit first, then the address.
    fn load(&self) -> Entry {
        let Self([first, second]) = self;
        let data_and_control = second.load(SeqCst);
        Entry([first.load(SeqCst), data_and_control])
    }
}

/// The entries of one function.
#[derive(Debug)]
pub(super) struct Table {
    entries: Box<[AtomicEntry]>,
    /// Entries from this index on have never been written.
    extent: AtomicUsize,
    /// A bit for each entry whose Message Data the driver has rewritten unchanged. A driver writes Data last,
    /// so it has rewritten the whole message, unless address or data have changed since.
    rewritten: Flags,
    /// A bit for each entry whose address has changed while it was unmasked, until its Message Data is
    /// written.
    moving: Flags,
}

impl Table {
    pub(super) fn new(size: TableSize) -> Self {
        Self::from_entries((0..size.get()).map(|_| Entry::RESET))
    }

    pub(super) fn from_entries(entries: impl Iterator<Item = Entry>) -> Self {
        let mut extent = 0;
        let atomic = |(index, entry): (usize, Entry)| {
            if entry != Entry::RESET {
                extent = index.saturating_add(1);
            }
            AtomicEntry::new(entry)
        };
        let entries: Box<[AtomicEntry]> = entries.enumerate().map(atomic).collect();
        let flags = || Flags::new(entries.len());
        Self { rewritten: flags(), moving: flags(), extent: AtomicUsize::new(extent), entries }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entries.iter().map(AtomicEntry::load)
    }

    pub(super) fn entry(&self, vector: Vector) -> Option<Entry> {
        self.entries.get(vector.index()).map(AtomicEntry::load)
    }

    pub(super) fn reset(&self) {
        let extent = self.extent.load(SeqCst);
        self.entries.iter().take(extent).for_each(|shared| shared.store(Entry::RESET));
    }

    /// Replaces the entries by those of another table.
    pub(super) fn replace(&self, other: &Self) {
        self.extent.fetch_max(other.extent.load(SeqCst), SeqCst);
        self.entries.iter().zip(other.entries()).for_each(|(shared, entry)| shared.store(entry));
    }

    /// The entries that a change of Message Control touches: all entries that were ever written, and always
    /// entry 0, so that the domain is called. A driver that uses only the first entries of a large table does
    /// not pay for the others.
    pub(super) fn written(&self) -> Touched {
        Touched::first(self.extent.load(SeqCst).max(1) as u32)
    }

    /// See [`Store::take_rewritten`](crate::Store::take_rewritten).
    pub(super) fn take_rewritten(&self, vector: Vector) -> bool {
        self.rewritten.take(vector.index())
    }

    #[inline]
    fn half(&self, qword: u64) -> Option<(usize, u64, &AtomicEntry)> {
        let index = usize::try_from(qword / 2).ok()?;
        Some((index, qword % 2, self.entries.get(index)?))
    }

    #[inline]
    fn read_qword(&self, qword: u64) -> u64 {
        let Some((_, half, AtomicEntry([first, second]))) = self.half(qword) else { return 0 };
        if half == 0 { first.load(SeqCst) } else { second.load(SeqCst) }
    }

    fn read_dword(&self, dword: u64) -> u32 {
        self.read_qword(dword / 2).wrapping_shr(shift(dword)) as u32
    }

    #[inline]
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        match data.as_chunks_mut() {
            ([value], []) if offset.is_multiple_of(4) => *value = self.read_dword(offset / 4).to_le_bytes(),
            _ => self.read_any(offset, data),
        }
    }

    /// Not inlined: otherwise every read would pay for this function's stack frame. The same holds for
    /// `write_any`.
    #[inline(never)]
    fn read_any(&self, offset: u64, data: &mut [u8]) {
        match data.as_chunks_mut() {
            ([value], []) if offset.is_multiple_of(8) => *value = self.read_qword(offset / 8).to_le_bytes(),
            _ => lanes(offset, data.len()).for_each(|lane| lane.read(self.read_dword(lane.dword), data)),
        }
    }

    /// Writes entries, and returns the vectors that the host must follow. `follows` decides that from an
    /// entry before and after the write. It is called after the write, and reads other registers only then.
    /// It is also called for an entry that is rewritten unchanged: see [`Table::take_rewritten`].
    #[inline]
    pub(super) fn write(
        &self,
        offset: u64,
        data: &[u8],
        follows: impl Fn(&Entry, &Entry) -> bool,
    ) -> Touched {
        match data.as_chunks() {
            // An aligned DWORD, which Linux writes.
            ([value], []) if offset.is_multiple_of(4) => {
                self.write_dword(offset / 4, u32::MAX, u32::from_le_bytes(*value), follows)
            }
            _ => self.write_any(offset, data, follows),
        }
    }

    #[inline(never)]
    fn write_any(&self, offset: u64, data: &[u8], follows: impl Fn(&Entry, &Entry) -> bool) -> Touched {
        match data.as_chunks() {
            // An aligned QWORD, which the specification also allows.
            ([value], []) if offset.is_multiple_of(8) => {
                self.write_qword(offset / 8, u64::MAX, u64::from_le_bytes(*value), &follows)
            }
            _ => lanes(offset, data.len()).fold(Touched::NOTHING, |touched, lane| {
                let value = lane.merge(0, data);
                touched.and(self.write_dword(lane.dword, lane.enabled(), value, &follows))
            }),
        }
    }

    #[inline]
    fn write_dword(
        &self,
        dword: u64,
        enabled: u32,
        value: u32,
        follows: impl Fn(&Entry, &Entry) -> bool,
    ) -> Touched {
        let at = |dword_of_it: u32| u64::from(dword_of_it).wrapping_shl(shift(dword));
        self.write_qword(dword / 2, at(enabled), at(value), follows)
    }

    /// Writes the enabled bits of one half of an entry.
    #[inline]
    fn write_qword(
        &self,
        qword: u64,
        enabled: u64,
        value: u64,
        follows: impl Fn(&Entry, &Entry) -> bool,
    ) -> Touched {
        let Some((index, half, AtomicEntry([address, data_and_control]))) = self.half(qword) else {
            return Touched::NOTHING;
        };
        let [_, writable] = WRITABLE;
        let (before, after, is_silent) = if half == 0 {
            let (before, after) = self.exchange(index, address, enabled, value);
            if after == before {
                return Touched::NOTHING;
            }
            // Read after the write of the address: the mask bit may have changed meanwhile.
            let second = data_and_control.load(SeqCst);
            let is_masked = !is_unmasked(second);
            if !is_masked {
                self.moving.set(index);
            }
            (Entry([before, second]), Entry([after, second]), is_masked && after != 0)
        } else {
            let enabled = enabled & writable;
            let (before, after) = self.exchange(index, data_and_control, enabled, value);
            let is_rewritten = enabled as u32 == u32::MAX && self.is_rewritten(index, before, after);
            if after == before && !is_rewritten {
                return Touched::NOTHING;
            }
            let first = address.load(SeqCst);
            if is_rewritten && first != 0 {
                self.rewritten.set(index);
            }
            let stays_masked = !is_unmasked(before) && !is_unmasked(after);
            (Entry([first, before]), Entry([first, after]), stays_masked && after as u32 != 0)
        };
        // A masked entry with a message needs no host call, whatever its message was before.
        if !is_silent && follows(&before, &after) {
            Touched::one(Vector(index as u32))
        } else {
            Touched::NOTHING
        }
    }

    /// Writes the enabled bits of a QWORD in one atomic step. Returns the QWORD before and after.
    #[inline]
    fn exchange(&self, index: usize, qword: &AtomicU64, enabled: u64, value: u64) -> (u64, u64) {
        let mut before = qword.load(SeqCst);
        loop {
            let after = before & !enabled | value & enabled;
            if after == before {
                return (before, after);
            }
            self.reach(index.saturating_add(1));
            match qword.compare_exchange_weak(before, after, SeqCst, SeqCst) {
                Ok(_) => return (before, after),
                Err(now) => before = now,
            }
        }
    }

    /// Whether a write of an entry's Message Data leaves the whole message unchanged.
    fn is_rewritten(&self, index: usize, before: u64, after: u64) -> bool {
        let was_moving = is_unmasked(after) && self.moving.take(index);
        before as u32 == after as u32 && !was_moving
    }

    /// Extends the entries that a change of Message Control touches.
    #[inline]
    fn reach(&self, extent: usize) {
        if self.extent.load(SeqCst) < extent {
            self.extent.fetch_max(extent, SeqCst);
        }
    }
}

/// One bit for each entry. Any vCPU may set or take it.
#[derive(Debug)]
struct Flags(Box<[AtomicU64]>);

impl Flags {
    fn new(entries: usize) -> Self {
        Self((0..entries.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    #[cold]
    fn set(&self, index: usize) {
        if let Some(word) = self.0.get(index / 64) {
            word.fetch_or(1u64.wrapping_shl(index as u32), SeqCst);
        }
    }

    fn take(&self, index: usize) -> bool {
        let bit = 1u64.wrapping_shl(index as u32);
        self.0
            .get(index / 64)
            .is_some_and(|word| word.load(SeqCst) & bit != 0 && word.fetch_and(!bit, SeqCst) & bit != 0)
    }
}

/// Whether an entry with this second QWORD is unmasked.
fn is_unmasked(second: u64) -> bool {
    !VectorControl::from_bits((second >> 32) as u32).mask()
}

/// The position of a DWORD in its QWORD, in bits.
fn shift(dword: u64) -> u32 {
    if dword.is_multiple_of(2) { 0 } else { 32 }
}
