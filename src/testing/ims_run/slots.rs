//! The model: slots as bytes, and what is owed. As simple as it can be.

use crate::apic::ApicMessage;
use crate::backend::Cookie;
use crate::ims::{Bit, ControlFormat, MaskBit, MaskedWhen};
use crate::message::MsiMessage;

/// What the control DWORD of a run's slots looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum SlotShape {
    /// [`ControlFormat::DSA`].
    Dsa,
    /// Bit 31 clear masks; bit 1 is the pending bit.
    Inverted,
    /// No mask bit; bit 1 is the pending bit.
    NoMask,
}

impl SlotShape {
    pub(super) fn format(self) -> ControlFormat {
        let bit = |position| Bit::new(position).expect("a bit of 32");
        let mask = MaskBit { bit: bit(31), masked_when: MaskedWhen::Clear };
        let control = match self {
            Self::Dsa => Ok(ControlFormat::DSA),
            Self::Inverted => ControlFormat::new(Some(mask), Some(bit(1)), None),
            Self::NoMask => ControlFormat::new(None, Some(bit(1)), None),
        };
        control.expect("fields apart")
    }

    /// What a driver writes to mask or unmask a slot.
    pub(super) fn control(self, masked: bool, pasid: u8) -> u32 {
        let pasid = if pasid == 0 { 0 } else { u32::from(pasid) << 12 | 8 };
        match self {
            Self::Dsa => u32::from(masked) | pasid,
            Self::Inverted => u32::from(!masked) << 31,
            Self::NoMask => u32::MAX,
        }
    }
}

/// A message of a slot's own; the version 0 is none.
pub(super) fn message(slot: usize, version: u8) -> [u8; 12] {
    let message = match version {
        0 => MsiMessage::BLANK,
        _ => MsiMessage { address: 0xfee0_0000 | (slot as u64 % 256) << 12, data: version.into() },
    };
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&message.address.to_le_bytes());
    bytes[8..].copy_from_slice(&message.data.to_le_bytes());
    bytes
}

/// The slots that are in force.
#[derive(Clone, Debug)]
pub struct Slots {
    pub(super) shape: SlotShape,
    pub(super) bytes: Vec<u8>,
    pub(super) owed: Vec<bool>,
    /// What the host refuses to detach a slot from.
    pub(super) clings: Vec<Option<MsiMessage>>,
    pub(super) used: bool,
    pub(super) suspended: bool,
}

impl Slots {
    pub(super) fn new(shape: SlotShape, slots: usize) -> Self {
        let bytes = Self::blank(shape).repeat(slots);
        let (owed, clings) = (vec![false; slots], vec![None; slots]);
        Self { shape, bytes, owed, clings, used: false, suspended: false }
    }

    fn blank(shape: SlotShape) -> [u8; 16] {
        let mut slot = [0; 16];
        slot[12] = u8::from(shape == SlotShape::Dsa);
        slot
    }

    pub(super) fn len(&self) -> usize {
        self.owed.len()
    }

    /// A slot of so many.
    pub(super) fn index(&self, slot: u16) -> usize {
        usize::from(slot) % self.len()
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        let writable: [u8; 4] = match self.shape {
            SlotShape::Dsa => [0x09, 0xf0, 0xff, 0xff],
            SlotShape::Inverted => [0, 0, 0, 0x80],
            SlotShape::NoMask => [0; 4],
        };
        for (at, byte) in (offset..self.bytes.len()).zip(data) {
            self.used = true;
            self.bytes[at] = if at % 16 < 12 { *byte } else { byte & writable[at % 4] };
        }
    }

    /// As after reset, for one slot.
    pub(super) fn clear(&mut self, slot: usize) {
        self.bytes[slot * 16..slot * 16 + 16].copy_from_slice(&Self::blank(self.shape));
    }

    fn register(&self, slot: usize, register: usize) -> u32 {
        let at = slot * 16 + register * 4;
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    /// The message that a slot should be live on.
    pub(super) fn live(&self, slot: usize) -> Option<MsiMessage> {
        let [low, high, data, control] = [0, 1, 2, 3].map(|register| self.register(slot, register));
        let masked = match self.shape {
            SlotShape::Dsa => control & 1 != 0,
            SlotShape::Inverted => control >> 31 == 0,
            SlotShape::NoMask => false,
        };
        let message = MsiMessage::from_registers(low, high, data);
        (!masked && !self.suspended && ApicMessage::try_from(message).is_ok()).then_some(message)
    }

    pub(super) fn cookie(&self, slot: usize) -> Option<Cookie> {
        let control = self.register(slot, 3);
        (self.shape == SlotShape::Dsa && control & 8 != 0).then_some(Cookie(control >> 12))
    }
}
