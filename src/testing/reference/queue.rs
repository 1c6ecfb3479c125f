//! IMS slots in guest memory. The driver rewrites them and rings doorbells at any time. The memory ends
//! within a slot, a region ends within another slot, and the second region may be unplugged.

use std::collections::BTreeMap;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::slots::SlotsReference;
use super::{Reference, Write};
use crate::backend::{Capabilities, Cookie};
use crate::delivery::Vector;
use crate::domain::Domain;
use crate::function::InterruptFunction;
use crate::ims::{QueueLayout, QueueStore, SlotArrayLayout, SlotRefusal};
use crate::message::MsiMessage;
use crate::testing::{Op, SlotOp};

/// The size of the first region.
const FIRST: usize = 0x408;
/// The size of both regions. The second one may be unplugged.
const ALL: usize = 2 * FIRST;

/// The expected slots in guest memory.
#[derive(Clone, Debug)]
pub struct QueueReference {
    /// The copies of the last doorbells.
    copies: SlotsReference,
    memory: GuestMemoryMmap,
    /// The contents of both regions, also of an unplugged one.
    bytes: Vec<u8>,
    /// The size of the plugged memory.
    len: usize,
    addresses: BTreeMap<usize, u64>,
}

/// An operation of a driver.
#[derive(Clone, Debug)]
pub enum QueueWrite {
    /// It writes to its memory.
    Memory(usize, Vec<u8>),
    /// It sets the address of a slot.
    SetAddress(usize, u64),
    /// It clears the address of a slot.
    ClearAddress(usize),
    /// It rings the doorbell of a slot.
    Ring(usize),
    /// The VM changes the size of the plugged memory.
    Plug(usize),
}

fn ram(bytes: &[u8]) -> GuestMemoryMmap {
    let ranges = [(GuestAddress(0), FIRST), (GuestAddress(FIRST as u64), bytes.len() - FIRST)];
    let ranges: Vec<_> = ranges.into_iter().filter(|(_, len)| *len > 0).collect();
    let memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory for the fake");
    memory.write_slice(bytes, GuestAddress(0)).expect("so much");
    memory
}

impl QueueReference {
    /// The bytes of a readable slot: all of them are in one plugged region.
    fn readable(&self, slot: usize) -> Option<&[u8]> {
        let at = usize::try_from(*self.addresses.get(&slot)?).ok()?;
        let end = at.checked_add(16)?;
        let is_readable = end <= FIRST || at >= FIRST && end <= self.len;
        is_readable.then(|| &self.bytes[at..end])
    }

    /// A write to a slot of an array, converted to a write to the slot's memory.
    fn in_memory(&self, offset: usize, data: Vec<u8>) -> Option<QueueWrite> {
        let at = usize::try_from(*self.addresses.get(&(offset / 16))?).ok().filter(|at| *at < ALL)?;
        Some(QueueWrite::Memory(at + offset % 16, data))
    }
}

impl Reference for QueueReference {
    type Layout = QueueLayout;
    type Registers = QueueStore;
    type Write = QueueWrite;

    fn at_power_on(&QueueLayout { slots, control }: &QueueLayout) -> Self {
        let copies = SlotsReference::at_power_on(&SlotArrayLayout { slots, control });
        let bytes = vec![0; ALL];
        Self { copies, memory: ram(&bytes), bytes, len: ALL, addresses: BTreeMap::new() }
    }

    fn device(&self) -> Capabilities {
        self.copies.device()
    }

    fn vectors(&self) -> usize {
        self.copies.vectors()
    }

    fn reset(&mut self) {
        self.copies.reset();
        self.addresses.clear();
    }

    fn write(&self, op: &Op) -> Option<QueueWrite> {
        let slot = |slot| self.copies.index(slot);
        Some(match *op {
            Op::WriteTable { offset, data, len } => {
                let data = data[..usize::from(len % 9)].to_vec();
                QueueWrite::Memory(usize::from(offset) % ALL, data)
            }
            Op::Slot(SlotOp::SetAddress { slot: of, at }) => {
                QueueWrite::SetAddress(slot(of), (usize::from(at) % (ALL / 16 + 4)) as u64 * 16)
            }
            Op::Slot(SlotOp::SetAnyAddress { slot: of, address }) => {
                QueueWrite::SetAddress(slot(of), address)
            }
            Op::Slot(SlotOp::ClearAddress(of)) => QueueWrite::ClearAddress(slot(of)),
            Op::Slot(SlotOp::Ring(of)) => QueueWrite::Ring(slot(of)),
            Op::Slot(SlotOp::Plug { all }) => QueueWrite::Plug(if all { ALL } else { FIRST }),
            _ => match self.copies.write(op)? {
                Write::Table(offset, data) => self.in_memory(offset, data)?,
                Write::Config(..) => return None,
            },
        })
    }

    fn apply(&mut self, write: &QueueWrite) {
        match write {
            QueueWrite::Memory(at, data) => {
                for (at, byte) in (*at..self.len).zip(data) {
                    self.bytes[at] = *byte;
                    self.memory.write_obj(*byte, GuestAddress(at as u64)).expect("memory that is there");
                }
            }
            QueueWrite::SetAddress(slot, address) => {
                if address.is_multiple_of(16) {
                    self.addresses.insert(*slot, *address);
                }
            }
            QueueWrite::ClearAddress(slot) => {
                self.addresses.remove(slot);
                self.copies.clear(*slot);
            }
            QueueWrite::Ring(slot) => match self.readable(*slot).map(<[u8]>::to_vec) {
                Some(bytes) => self.copies.write_bytes(slot * 16, &bytes),
                None => self.copies.clear(*slot),
            },
            QueueWrite::Plug(len) => {
                self.len = *len;
                self.memory = ram(&self.bytes[..*len]);
            }
        }
    }

    fn perform<D: Domain>(&self, write: &QueueWrite, function: &InterruptFunction<QueueStore, D>) {
        let before = function.look(QueueStore::refusals);
        let vector = |slot: usize| Vector(slot as u32);
        let (done, expected): (Result<(), SlotRefusal>, bool) = match *write {
            QueueWrite::SetAddress(slot, address) => {
                (function.set_address(vector(slot), GuestAddress(address)), address.is_multiple_of(16))
            }
            QueueWrite::ClearAddress(slot) => (function.clear_address(vector(slot)), true),
            QueueWrite::Ring(slot) => {
                (function.fetch(vector(slot), &&self.memory), self.readable(slot).is_some())
            }
            // The driver does not tell the device of these.
            QueueWrite::Memory(..) | QueueWrite::Plug(_) => return,
        };
        assert_eq!(done.is_ok(), expected, "{write:?}: {done:?}");
        let refused = function.look(QueueStore::refusals) - before;
        assert_eq!(refused, u64::from(done.is_err()), "each refusal is counted, once");
    }

    fn is_enabled(&self) -> bool {
        self.copies.is_enabled()
    }

    fn message(&self, slot: usize) -> Option<MsiMessage> {
        self.copies.message(slot)
    }

    fn cookie(&self, slot: usize) -> Option<Cookie> {
        self.copies.cookie(slot)
    }

    fn check<D: Domain>(&self, function: &InterruptFunction<QueueStore, D>) {
        self.copies.check_vectors(function.vectors());
    }

    fn pending<D: Domain>(&self, function: &InterruptFunction<QueueStore, D>) -> Option<Vec<bool>> {
        Some(self.copies.compare(|bytes| function.read_copies(0, bytes)))
    }
}
