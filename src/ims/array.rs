//! An array of slots in a BAR. It is plain memory with one rule: a control DWORD keeps only the bits of its
//! format.
//!
//! An access may have any offset and width. Bytes beyond the last slot read 0 and ignore writes. Slots are
//! allocated, 16 bytes each, by the guest's first write after a reset.
//!
//! Locking: one mutex around the plain values ([`Slots`]), held for one access. No system call is made under
//! it.

use super::layout::SlotArrayLayout;
use super::slot::Slot;
use super::state::{SlotArrayState, SlotState};
use crate::access::{Lane, lanes};
use crate::backend::{Capabilities, Cookie, Growth};
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::lock::Mutex;
use crate::registers::Registers;
use crate::state::RestoreError;

/// A function's IMS as an array of slots.
///
/// ```
/// use vm_msi::ims::{ControlFormat, SlotArray, SlotArrayLayout, SlotCount};
/// use vm_msi::{Delivery, MsiMessage, Store, Vector};
///
/// let slots = SlotCount::new(65_536).unwrap();
/// let ims = SlotArray::new(SlotArrayLayout { slots, control: ControlFormat::DSA });
/// assert_eq!(ims.vectors(), 0, "the store is not in use");
///
/// // A driver writes the message of slot 40,000, and then its control with the mask bit clear.
/// let slot = 40_000 * 16;
/// let _ = ims.write_slots(slot, &0xfee0_0000u64.to_le_bytes());
/// let _ = ims.write_slots(slot + 8, &0x41u32.to_le_bytes());
/// assert_eq!(ims.delivery(Vector(40_000)), Delivery::Held);
/// let touched = ims.write_slots(slot + 12, &0u32.to_le_bytes());
/// assert!(touched.vectors().eq([Vector(40_000)]));
/// let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
/// assert_eq!(ims.delivery(Vector(40_000)), Delivery::Live(message));
/// ```
#[derive(Debug)]
pub struct SlotArray {
    layout: SlotArrayLayout,
    slots: Mutex<Slots>,
}

impl SlotArray {
    /// Slots after power-on: the store is not in use.
    pub fn new(layout: SlotArrayLayout) -> Self {
        Self { layout, slots: Mutex::new(Slots::new(layout)) }
    }

    /// The number of slots, and their control format.
    pub fn layout(&self) -> &SlotArrayLayout {
        &self.layout
    }

    /// Reads the slots. `offset` is in bytes from the first slot. Pending bits read 0: they belong to the
    /// domain.
    pub fn read_slots(&self, offset: u64, data: &mut [u8]) {
        self.slots.lock().read(offset, data);
    }

    /// Writes the slots. Bytes beyond their end are ignored.
    pub fn write_slots(&self, offset: u64, data: &[u8]) -> Touched {
        self.slots.lock().write(offset, data)
    }
}

impl From<SlotArrayLayout> for SlotArray {
    fn from(layout: SlotArrayLayout) -> Self {
        Self::new(layout)
    }
}

/// The slots as plain values, without a lock.
#[derive(Debug)]
pub(super) struct Slots {
    layout: SlotArrayLayout,
    /// Empty until the guest writes to one of them.
    slots: Vec<Slot>,
}

/// The slot of a lane, and which of the slot's four registers it is.
fn slot_and_register(lane: &Lane) -> (usize, u64) {
    (usize::try_from(lane.dword / 4).unwrap_or(usize::MAX), lane.dword % 4)
}

impl Slots {
    pub(super) fn new(layout: SlotArrayLayout) -> Self {
        Self::of_slots(layout, Vec::new())
    }

    pub(super) fn of_slots(layout: SlotArrayLayout, slots: Vec<Slot>) -> Self {
        Self { layout, slots }
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn layout(&self) -> SlotArrayLayout {
        self.layout
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        for lane in lanes(offset, data.len()) {
            let (index, register) = slot_and_register(&lane);
            let slot = self.slot(index);
            lane.read(slot.map_or(0, |slot| slot.register(register)), data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Touched {
        let format = self.layout.control;
        let mut touched = Touched::NOTHING;
        for lane in lanes(offset, data.len()) {
            let (index, register) = slot_and_register(&lane);
            let Some(slot) = self.slot(index) else { continue };
            let written = slot.with_register(register, lane.merge(slot.register(register), data), format);
            touched = touched.and(self.put(index, written));
        }
        touched
    }

    /// Replaces a slot.
    pub(super) fn put(&mut self, index: usize, slot: Slot) -> Touched {
        let format = self.layout.control;
        let answer = |slot: Slot| (slot.delivery(format), format.cookie(slot.control()));
        let Some(before) = self.slot(index) else { return Touched::NOTHING };
        // The device may signal after the first write, whatever was written.
        let is_first = self.slots.is_empty();
        if is_first {
            self.slots = vec![Slot::reset(format); self.layout.slots.get() as usize];
        }
        if let Some(entry) = self.slots.get_mut(index) {
            *entry = slot;
        }
        if is_first || answer(slot) != answer(before) {
            Touched::one(Vector(index as u32))
        } else {
            Touched::NOTHING
        }
    }

    pub(super) fn reset(&mut self) -> Touched {
        self.slots = Vec::new();
        Touched::first(self.layout.slots.get())
    }

    pub(super) fn vectors(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn delivery(&self, vector: Vector) -> Delivery {
        self.slots.get(vector.index()).map_or(Delivery::Off, |slot| slot.delivery(self.layout.control))
    }

    pub(super) fn cookie(&self, vector: Vector) -> Option<Cookie> {
        self.slots.get(vector.index()).and_then(|slot| self.layout.control.cookie(slot.control()))
    }

    pub(super) fn answer(&self, vector: Vector) -> (Delivery, Option<Cookie>) {
        (self.delivery(vector), self.cookie(vector))
    }

    /// A slot, also before slots are allocated.
    fn slot(&self, index: usize) -> Option<Slot> {
        let unused = || index < self.layout.slots.get() as usize && self.slots.is_empty();
        self.slots.get(index).copied().or_else(|| unused().then(|| Slot::reset(self.layout.control)))
    }
}

impl SlotArrayLayout {
    /// Independent vectors, because each is bound when the guest first unmasks it.
    pub(super) fn needs(&self) -> Capabilities {
        Capabilities {
            vectors: self.slots.get(),
            growth: Growth::Reserved,
            independent: true,
            multi_message: false,
            ims: true,
            cookies: self.control.has_cookies(),
        }
    }
}

impl Slots {
    pub(super) fn to_state(&self) -> SlotArrayState {
        let slot = |slot: &Slot| SlotState { message: slot.message(), control: slot.control() };
        SlotArrayState { slots: self.slots().iter().map(slot).collect() }
    }

    pub(super) fn try_from_state(
        layout: &SlotArrayLayout,
        state: &SlotArrayState,
    ) -> Result<Self, RestoreError> {
        let (found, expected) = (state.slots.len(), layout.slots.get() as usize);
        if found != 0 && found != expected {
            return Err(RestoreError::TableSize { found, expected });
        }
        let slot = |(vector, state): (Vector, &SlotState)| {
            if layout.control.written(state.control) == state.control {
                Ok(Slot::new(state.message, state.control))
            } else {
                Err(RestoreError::Reserved { register: "Control", vector, found: state.control.into() })
            }
        };
        let slots: Result<Vec<Slot>, RestoreError> = (0..).map(Vector).zip(&state.slots).map(slot).collect();
        Ok(Self::of_slots(*layout, slots?))
    }
}

impl Registers for SlotArray {
    type State = SlotArrayState;

    fn capacity(&self) -> u32 {
        self.layout.slots.get()
    }

    fn needs(&self) -> Capabilities {
        self.layout.needs()
    }

    fn state(&self) -> SlotArrayState {
        self.slots.lock().to_state()
    }

    fn restored(&self, state: &SlotArrayState) -> Result<Self, RestoreError> {
        let slots = Slots::try_from_state(&self.layout, state)?;
        Ok(Self { layout: self.layout, slots: Mutex::new(slots) })
    }

    fn replace(&self, other: Self) {
        *self.slots.lock() = other.slots.into_inner();
    }

    fn reset(&self) -> Touched {
        self.slots.lock().reset()
    }
}

impl Store for SlotArray {
    fn vectors(&self) -> u32 {
        self.slots.lock().vectors()
    }

    fn delivery(&self, vector: Vector) -> Delivery {
        self.slots.lock().delivery(vector)
    }

    fn cookie(&self, vector: Vector) -> Option<Cookie> {
        self.slots.lock().cookie(vector)
    }

    fn answer(&self, vector: Vector) -> (Delivery, Option<Cookie>) {
        self.slots.lock().answer(vector)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;
    use crate::ims::{ControlFormat, SlotCount};
    use crate::message::MsiMessage;

    #[test]
    fn an_answer_never_pairs_a_message_with_the_cookie_of_another() {
        let layout = SlotArrayLayout { slots: SlotCount::new(1).unwrap(), control: ControlFormat::DSA };
        let slots = SlotArray::new(layout);
        let slot = |n: u32| {
            let message = MsiMessage { address: 0xfee0_0000, data: 0x41 + n };
            let control = n << 12 | 1 << 3;
            let bytes = [message.address as u32, 0, message.data, control].map(u32::to_le_bytes).concat();
            (bytes, (Delivery::Live(message), layout.control.cookie(control)))
        };
        let both = [1, 2].map(slot);
        assert_ne!(both[0].1.1, both[1].1.1, "the slots have cookies of their own");
        let _ = slots.write_slots(0, &both[0].0);
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    both.iter().for_each(|(bytes, _)| drop(slots.write_slots(0, bytes)));
                }
            });
            let mut seen = [0u32; 2];
            let mut torn = None;
            while torn.is_none() && seen.iter().any(|seen| *seen < 10_000) {
                let answer = slots.answer(Vector(0));
                match both.iter().position(|(_, both)| *both == answer) {
                    Some(which) => seen[which] += 1,
                    None => torn = Some(answer),
                }
            }
            ended.store(true, Ordering::Relaxed);
            assert_eq!(torn, None);
        });
    }
}
