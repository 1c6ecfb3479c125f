//! The driver of slots in guest memory. It rewrites them as it likes, and rings when it likes; its memory ends within a
//! slot, has an edge within another, and some of it comes and goes.

use std::collections::BTreeMap;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::driver::{ImsUnderTest, SlotDriver};
use super::slots::{Slots, message};
use crate::delivery::Vector;
use crate::ims::{ControlFormat, QueueLayout, QueueStore, SlotCount};

/// Memory from 0 on.
const FIRST: usize = 0x408;
/// And as much that follows it, and may be unplugged.
const ALL: usize = 2 * FIRST;

/// What a driver does with slots in memory. Slots are taken modulo their number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum QueueAccess {
    /// It says that a slot is at the `at`-th multiple of 16.
    Place {
        /// The slot.
        slot: u16,
        /// Modulo some more than there is memory.
        at: u8,
    },
    /// It says that a slot is at any address at all.
    PlaceAnywhere {
        /// The slot.
        slot: u16,
        /// Where it is to be.
        address: u64,
    },
    /// It says that a slot is nowhere.
    Unplace(u16),
    /// It rings.
    Ring(u16),
    /// It writes a slot's message, where that slot is: its own APIC, and this version of it; 0 for none.
    Message {
        /// The slot.
        slot: u16,
        /// Which of several messages of the slot's own.
        version: u8,
    },
    /// It writes a slot's control DWORD, where that slot is.
    Control {
        /// The slot.
        slot: u16,
        /// Masked, where there is a mask bit.
        masked: bool,
        /// Its PASID, where there is a place for one; 0 for none.
        pasid: u8,
    },
    /// It writes anything to its memory.
    Write {
        /// Where.
        at: u16,
        /// What.
        data: [u8; 16],
    },
    /// Half of its memory is there, or all of it.
    Memory {
        /// All of it.
        all: bool,
    },
}

/// The driver of slots in guest memory.
#[derive(Clone, Debug)]
pub struct QueueDriver {
    memory: GuestMemoryMmap,
    /// What is in it, also where it is unplugged.
    bytes: Vec<u8>,
    /// So much of it is there.
    len: usize,
    places: BTreeMap<usize, u64>,
    refusals: u64,
}

fn ram(bytes: &[u8]) -> GuestMemoryMmap {
    let ranges = [(GuestAddress(0), FIRST), (GuestAddress(FIRST as u64), bytes.len() - FIRST)];
    let ranges: Vec<_> = ranges.into_iter().filter(|(_, len)| *len > 0).collect();
    let memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory for the fake");
    memory.write_slice(bytes, GuestAddress(0)).expect("so much");
    memory
}

impl QueueDriver {
    fn write(&mut self, at: usize, data: &[u8]) {
        for (at, byte) in (at..self.len).zip(data) {
            self.bytes[at] = *byte;
            self.memory.write_obj(*byte, GuestAddress(at as u64)).expect("memory that is there");
        }
    }

    fn write_slot(&mut self, slot: usize, offset: usize, data: &[u8]) {
        if let Some(at) =
            self.places.get(&slot).and_then(|at| usize::try_from(*at).ok()).filter(|at| *at < ALL)
        {
            self.write(at + offset, data);
        }
    }

    /// A slot that can be read: not beyond what is there, and not across its edge.
    fn readable(&self, slot: usize) -> Option<[u8; 16]> {
        let at = usize::try_from(*self.places.get(&slot)?).ok()?;
        let end = at.checked_add(16)?;
        let within = end <= FIRST || at >= FIRST && end <= self.len;
        within.then(|| self.bytes[at..end].try_into().expect("16 bytes"))
    }

    fn place(&mut self, slot: usize, address: u64, function: &ImsUnderTest<QueueStore>) {
        let placed = function.place(Vector(slot as u32), GuestAddress(address));
        assert_eq!(placed.is_ok(), address.is_multiple_of(16));
        if placed.is_ok() {
            self.places.insert(slot, address);
        } else {
            self.refusals += 1;
        }
    }
}

impl SlotDriver for QueueDriver {
    type Store = QueueStore;
    type Access = QueueAccess;

    fn new() -> Self {
        let bytes = vec![0; ALL];
        Self { memory: ram(&bytes), bytes, len: ALL, places: BTreeMap::new(), refusals: 0 }
    }

    fn layout(slots: SlotCount, control: ControlFormat) -> QueueLayout {
        QueueLayout { slots, control }
    }

    fn perform(&mut self, access: &QueueAccess, slots: &mut Slots, function: &ImsUnderTest<QueueStore>) {
        match *access {
            QueueAccess::Place { slot, at } => {
                let at = usize::from(at) % (ALL / 16 + 4);
                self.place(slots.index(slot), at as u64 * 16, function);
            }
            QueueAccess::PlaceAnywhere { slot, address } => {
                self.place(slots.index(slot), address, function);
            }
            QueueAccess::Unplace(slot) => {
                let slot = slots.index(slot);
                self.places.remove(&slot);
                slots.clear(slot);
                function.unplace(Vector(slot as u32)).expect("a slot");
            }
            QueueAccess::Ring(slot) => {
                let slot = slots.index(slot);
                let read = function.fetch(Vector(slot as u32), &&self.memory);
                let readable = self.readable(slot);
                assert_eq!(read.is_ok(), readable.is_some(), "{read:?}");
                match readable {
                    Some(bytes) => slots.write(slot * 16, &bytes),
                    None => {
                        self.refusals += 1;
                        slots.clear(slot);
                    }
                }
            }
            QueueAccess::Message { slot, version } => {
                let slot = slots.index(slot);
                self.write_slot(slot, 0, &message(slot, version));
            }
            QueueAccess::Control { slot, masked, pasid } => {
                let control = slots.shape.control(masked, pasid);
                self.write_slot(slots.index(slot), 12, &control.to_le_bytes());
            }
            QueueAccess::Write { at, data } => self.write(usize::from(at) % ALL, &data),
            QueueAccess::Memory { all } => {
                self.len = if all { ALL } else { FIRST };
                self.memory = ram(&self.bytes[..self.len]);
            }
        }
    }

    fn reset(&mut self) {
        self.places.clear();
    }

    fn moved(&mut self) {
        self.refusals = 0;
    }

    fn read(function: &ImsUnderTest<QueueStore>, data: &mut [u8]) {
        function.read_copies(0, data);
    }

    fn check(&self, function: &ImsUnderTest<QueueStore>) {
        assert_eq!(function.look(QueueStore::refusals), self.refusals, "each refusal is counted, once");
    }
}
