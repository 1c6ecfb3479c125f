//! An array of slots in a BAR, as plain memory with one rule: a control DWORD keeps only what its format has.
//!
//! Every access of any offset and width is answered; what lies beyond the last slot reads 0 and ignores writes. A
//! slot takes 16 bytes from the first write after a reset on, and nothing before.

use std::sync::Mutex;

use super::layout::SlotArrayLayout;
use super::slot::Slot;
use super::state::SlotArrayState;
use crate::access::{Lane, lanes};
use crate::backend::{Capabilities, Cookie, Growth};
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::registers::Registers;
use crate::state::RestoreError;

/// A function's IMS as an array of slots.
///
/// ```
/// use vm_msi::ims::{ControlFormat, SlotArray, SlotArrayLayout, SlotCount};
/// use vm_msi::{Delivery, MsiMessage, Registers, Store, Vector};
///
/// let slots = SlotCount::new(65_536).unwrap();
/// let mut ims = SlotArray::at_power_on(&SlotArrayLayout { slots, control: ControlFormat::DSA });
/// assert_eq!(ims.vectors(), 0, "nobody has used it yet");
///
/// // What a driver does: the message of slot 40,000, and then its control with the mask bit clear.
/// let slot = 40_000 * 16;
/// let _ = ims.write_slots(slot, &0xfee0_0000u64.to_le_bytes());
/// let _ = ims.write_slots(slot + 8, &0x41u32.to_le_bytes());
/// assert_eq!(ims.delivery(Vector(40_000)), Delivery::Held);
/// let touched = ims.write_slots(slot + 12, &0u32.to_le_bytes());
/// assert!(touched.vectors().eq([Vector(40_000)]));
/// let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
/// assert_eq!(ims.delivery(Vector(40_000)), Delivery::Live(message));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotArray {
    layout: SlotArrayLayout,
    /// None until the guest writes to one of them.
    slots: Vec<Slot>,
}

/// Which slot and which of its four registers a lane is for.
fn place(lane: &Lane) -> (usize, u64) {
    (usize::try_from(lane.dword / 4).unwrap_or(usize::MAX), lane.dword % 4)
}

impl SlotArray {
    pub(super) fn of_slots(layout: SlotArrayLayout, slots: Vec<Slot>) -> Self {
        Self { layout, slots }
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn layout(&self) -> SlotArrayLayout {
        self.layout
    }

    /// Reads the slots; `offset` counts from the first. Pending bits read 0: they are not the registers'.
    pub fn read_slots(&self, offset: u64, data: &mut [u8]) {
        for lane in lanes(offset, data.len()) {
            let (index, register) = place(&lane);
            let slot = self.slot(index);
            lane.read(slot.map_or(0, |slot| slot.register(register)), data);
        }
    }

    /// Writes the slots. Bytes beyond their end are ignored.
    pub fn write_slots(&mut self, offset: u64, data: &[u8]) -> Touched {
        let format = self.layout.control;
        let mut touched = Touched::NOTHING;
        for lane in lanes(offset, data.len()) {
            let (index, register) = place(&lane);
            let Some(slot) = self.slot(index) else { continue };
            let written = slot.with_register(register, lane.merge(slot.register(register), data), format);
            touched = touched.and(self.put(index, written));
        }
        touched
    }

    /// Puts a slot in the place of the one that is there.
    pub(super) fn put(&mut self, index: usize, slot: Slot) -> Touched {
        let format = self.layout.control;
        let answer = |slot: Slot| (slot.delivery(format), format.cookie(slot.control()));
        let Some(before) = self.slot(index) else { return Touched::NOTHING };
        // From the first write on the device may signal, whatever was written.
        let is_first = self.slots.is_empty();
        if is_first {
            self.slots = vec![Slot::reset(format); self.layout.slots.get() as usize];
        }
        if let Some(place) = self.slots.get_mut(index) {
            *place = slot;
        }
        if is_first || answer(slot) != answer(before) {
            Touched::one(Vector(index as u32))
        } else {
            Touched::NOTHING
        }
    }

    /// A slot, also while none is stored.
    fn slot(&self, index: usize) -> Option<Slot> {
        let unused = || index < self.layout.slots.get() as usize && self.slots.is_empty();
        self.slots.get(index).copied().or_else(|| unused().then(|| Slot::reset(self.layout.control)))
    }
}

impl Registers for SlotArray {
    type Layout = SlotArrayLayout;
    type State = SlotArrayState;
    type Shared = Mutex<Self>;

    fn at_power_on(layout: &SlotArrayLayout) -> Self {
        Self::of_slots(*layout, Vec::new())
    }

    fn capacity(layout: &SlotArrayLayout) -> u32 {
        layout.slots.get()
    }

    /// Each vector on its own, when the guest first unmasks it.
    fn needs(layout: &SlotArrayLayout) -> Capabilities {
        Capabilities {
            vectors: Self::capacity(layout),
            growth: Growth::Reserved,
            independent: true,
            multi_message: false,
            ims: true,
            cookies: layout.control.has_cookies(),
        }
    }

    fn state(&self) -> SlotArrayState {
        self.to_state()
    }

    fn from_state(layout: &SlotArrayLayout, state: &SlotArrayState) -> Result<Self, RestoreError> {
        Self::try_from_state(layout, state)
    }

    fn reset(&mut self) -> Touched {
        self.slots = Vec::new();
        Touched::first(self.layout.slots.get())
    }
}

impl Store for SlotArray {
    fn vectors(&self) -> u32 {
        self.slots.len() as u32
    }

    fn delivery(&self, vector: Vector) -> Delivery {
        self.slots.get(vector.index()).map_or(Delivery::Off, |slot| slot.delivery(self.layout.control))
    }

    fn cookie(&self, vector: Vector) -> Option<Cookie> {
        self.slots.get(vector.index()).and_then(|slot| self.layout.control.cookie(slot.control()))
    }
}
