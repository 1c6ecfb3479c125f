//! An array of IMS slots: its bytes, and the writable bits of the control DWORDs.

use super::{Reference, Write, entry, own_message};
use crate::backend::{Capabilities, Cookie, Growth};
use crate::domain::Domain;
use crate::function::InterruptFunction;
use crate::ims::{
    Bit, ControlFormat, MaskBit, MaskedWhen, QueueLayout, SlotArray, SlotArrayLayout, SlotCount,
};
use crate::message::MsiMessage;
use crate::remap::handle;
use crate::testing::Op;

/// The pending bit, which is in the lowest byte of the control DWORD in all these formats.
const PENDING: u8 = 2;

/// The format of a slot's control DWORD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum SlotShape {
    /// [`ControlFormat::DSA`].
    Dsa,
    /// Bit 31 masks if it is clear, and bit 1 is the pending bit.
    Inverted,
    /// There is no mask bit, and bit 1 is the pending bit.
    NoMask,
}

impl SlotShape {
    /// An array of `slots` slots, 1 to 65,536.
    pub fn array(self, slots: u32) -> SlotArrayLayout {
        SlotArrayLayout { slots: SlotCount::new(slots).expect("1 to 65,536 slots"), control: self.format() }
    }

    /// `slots` slots in guest memory, 1 to 65,536.
    pub fn queue(self, slots: u32) -> QueueLayout {
        let SlotArrayLayout { slots, control } = self.array(slots);
        QueueLayout { slots, control }
    }

    fn format(self) -> ControlFormat {
        let bit = |position| Bit::new(position).expect("a bit of 32");
        let mask = MaskBit { bit: bit(31), masked_when: MaskedWhen::Clear };
        let control = match self {
            Self::Dsa => Ok(ControlFormat::DSA),
            Self::Inverted => ControlFormat::new(Some(mask), Some(bit(1)), None),
            Self::NoMask => ControlFormat::new(None, Some(bit(1)), None),
        };
        control.expect("fields apart")
    }

    fn of(format: ControlFormat) -> Self {
        let shape = [Self::Dsa, Self::Inverted, Self::NoMask].into_iter().find(|s| s.format() == format);
        shape.expect("a shape that runs have")
    }

    /// The control DWORD that masks or unmasks a slot, with a PASID if the format has one; 0 for none.
    pub(super) fn control(self, masked: bool, pasid: u8) -> u32 {
        let pasid = if pasid == 0 { 0 } else { u32::from(pasid) << 12 | 8 };
        match self {
            Self::Dsa => u32::from(masked) | pasid,
            Self::Inverted => u32::from(!masked) << 31,
            Self::NoMask => u32::MAX,
        }
    }

    /// The writable bits of each byte of the control DWORD.
    fn writable(self) -> [u8; 4] {
        match self {
            Self::Dsa => [0x09, 0xf0, 0xff, 0xff],
            Self::Inverted => [0, 0, 0, 0x80],
            Self::NoMask => [0; 4],
        }
    }
}

/// The expected array of slots.
#[derive(Clone, Debug)]
pub struct SlotsReference {
    shape: SlotShape,
    bytes: Vec<u8>,
    is_used: bool,
}

impl SlotsReference {
    /// The index of a slot, modulo their number.
    pub(super) fn index(&self, slot: u16) -> usize {
        usize::from(slot) % self.vectors()
    }

    pub(super) fn write_bytes(&mut self, offset: usize, data: &[u8]) {
        let writable = self.shape.writable();
        for (at, byte) in (offset..self.bytes.len()).zip(data) {
            self.is_used = true;
            self.bytes[at] = if at % 16 < 12 { *byte } else { byte & writable[at % 4] };
        }
    }

    /// Sets one slot to its value after reset.
    pub(super) fn clear(&mut self, slot: usize) {
        self.bytes[slot * 16..][..16].fill(0);
        self.bytes[slot * 16 + 12] = u8::from(self.shape == SlotShape::Dsa);
    }

    fn register(&self, slot: usize, register: usize) -> u32 {
        u32::from_le_bytes(self.bytes[slot * 16 + register * 4..][..4].try_into().expect("4 bytes"))
    }

    /// Checks that all slots are in use, or none.
    pub(super) fn check_vectors(&self, vectors: u32) {
        let expected = if self.is_used { self.vectors() } else { 0 };
        assert_eq!(vectors as usize, expected, "slots that may be used");
    }

    /// Compares the slots that `read` reads with the expected ones. Returns their pending bits.
    pub(super) fn compare(&self, read: impl FnOnce(&mut [u8])) -> Vec<bool> {
        let mut bytes = vec![0; self.bytes.len()];
        read(&mut bytes);
        let controls = bytes.iter_mut().skip(12).step_by(16);
        let pending = controls.map(|control| std::mem::replace(control, *control & !PENDING) & PENDING != 0);
        let pending = pending.collect();
        assert_eq!(bytes, self.bytes, "the slots read as they were written");
        pending
    }
}

impl Reference for SlotsReference {
    type Layout = SlotArrayLayout;
    type Registers = SlotArray;
    type Write = Write;

    fn at_power_on(layout: &SlotArrayLayout) -> Self {
        let (shape, slots) = (SlotShape::of(layout.control), layout.slots.get() as usize);
        let mut reference = Self { shape, bytes: vec![0; slots * 16], is_used: false };
        reference.reset();
        reference
    }

    fn device(&self) -> Capabilities {
        Capabilities {
            vectors: self.vectors() as u32,
            growth: Growth::Dynamic,
            independent: true,
            multi_message: false,
            ims: true,
            cookies: self.shape == SlotShape::Dsa,
        }
    }

    fn vectors(&self) -> usize {
        self.bytes.len() / 16
    }

    fn reset(&mut self) {
        self.is_used = false;
        (0..self.vectors()).for_each(|slot| self.clear(slot));
    }

    fn write(&self, op: &Op) -> Option<Write> {
        let slot = |slot: u16| self.index(slot) * 16;
        let control = |masked, pasid| self.shape.control(masked, pasid).to_le_bytes().to_vec();
        Some(match *op {
            Op::Message { vector, version } => {
                Write::Table(slot(vector), entry(own_message(self.index(vector), version)))
            }
            Op::Mask { vector, masked } => Write::Table(slot(vector) + 12, control(masked, 0)),
            Op::Pasid { vector, masked, pasid } => Write::Table(slot(vector) + 12, control(masked, pasid)),
            Op::Clear(vector) => Write::Table(slot(vector), vec![0; 12]),
            Op::WriteTable { offset, data, len } => {
                Write::Table(offset.into(), data[..usize::from(len % 9)].to_vec())
            }
            Op::Handle { vector, entry: index } => {
                Write::Table(slot(vector), entry(handle::message(index.into())))
            }
            _ => return None,
        })
    }

    fn apply(&mut self, write: &Write) {
        let Write::Table(offset, data) = write else { return };
        self.write_bytes(*offset, data);
    }

    fn perform<D: Domain>(&self, write: &Write, function: &InterruptFunction<SlotArray, D>) {
        let Write::Table(offset, data) = write else { return };
        function.write_slots(*offset as u64, data);
    }

    fn is_enabled(&self) -> bool {
        self.is_used
    }

    fn message(&self, slot: usize) -> Option<MsiMessage> {
        let [low, high, data, control] = [0, 1, 2, 3].map(|register| self.register(slot, register));
        let is_masked = match self.shape {
            SlotShape::Dsa => control & 1 != 0,
            SlotShape::Inverted => control >> 31 == 0,
            SlotShape::NoMask => false,
        };
        (!is_masked).then(|| MsiMessage::from_registers(low, high, data))
    }

    fn cookie(&self, slot: usize) -> Option<Cookie> {
        let control = self.register(slot, 3);
        (self.shape == SlotShape::Dsa && control & 8 != 0).then_some(Cookie(control >> 12))
    }

    fn check<D: Domain>(&self, function: &InterruptFunction<SlotArray, D>) {
        self.check_vectors(function.vectors());
    }

    fn pending<D: Domain>(&self, function: &InterruptFunction<SlotArray, D>) -> Option<Vec<bool>> {
        Some(self.compare(|bytes| function.read_slots(0, bytes)))
    }
}
