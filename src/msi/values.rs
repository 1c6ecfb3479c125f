//! The values of MSI's registers, without a lock.
//!
//! Invariant: after any access of any offset, width and value, the values are ones that a function could
//! have. The returned [`Touched`] names every vector whose [`Delivery`] changed.

use super::MessageControl;
use super::layout::{CAPABILITY_ID, MsiLayout, Register};
use crate::access::lanes;
use crate::delivery::{Delivery, Touched, Vector};
use crate::message::MsiMessage;

/// The registers' values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Values {
    pub(super) layout: MsiLayout,
    pub(super) control: MessageControl,
    pub(super) message: MsiMessage,
    pub(super) mask: u32,
}

impl Values {
    pub(super) fn new(layout: MsiLayout) -> Self {
        Self { layout, control: layout.control(), message: MsiMessage::BLANK, mask: 0 }
    }

    /// The number of vectors in use: Multiple Message Enable, limited to the number that the function
    /// supports.
    fn granted(&self) -> u32 {
        1u32.wrapping_shl(self.control.multiple_message_enable().into()).min(self.layout.messages().get())
    }

    fn register(&self, register: Register) -> u32 {
        match register {
            Register::Control => u32::from(self.control.into_bits()) << 16 | u32::from(CAPABILITY_ID),
            Register::AddressLow => self.message.address_low(),
            Register::AddressHigh => self.message.address_high(),
            Register::Data => self.message.data,
            Register::Mask => self.mask,
            Register::Pending => 0,
        }
    }

    fn write_register(&mut self, register: Register, value: u32) {
        let MsiMessage { data, .. } = self.message;
        let (low, high) = (self.message.address_low(), self.message.address_high());
        match register {
            Register::Control => self.control = self.control.written((value >> 16) as u16),
            // The address is DWORD aligned: its low bits are read-only zeros.
            Register::AddressLow => self.message = MsiMessage::from_registers(value & !3, high, data),
            Register::AddressHigh => self.message = MsiMessage::from_registers(low, value, data),
            // Extended Message Data is not supported: the upper half is reserved.
            Register::Data => self.message.data = value & 0xffff,
            Register::Mask => self.mask = value & self.vector_bits(),
            Register::Pending => {}
        }
    }

    /// One bit for each vector of the function. The other mask bits are reserved.
    pub(super) fn vector_bits(&self) -> u32 {
        u32::MAX.wrapping_shr(32u32.saturating_sub(self.layout.messages().get()))
    }

    /// The vectors that a change of these registers may have altered.
    fn touched_since(&self, before: &Self) -> Touched {
        let used = Touched::first(self.granted().max(before.granted()));
        let one = |mask: u32| Touched::one(Vector(mask.trailing_zeros()));
        if self == before || !self.control.enable() && !before.control.enable() {
            Touched::NOTHING
        } else if (self.control, self.message) == (before.control, before.message) {
            let changed = self.mask ^ before.mask;
            let highest = 31u32.saturating_sub(changed.leading_zeros());
            one(changed).and(Touched::one(Vector(highest)))
        } else {
            used
        }
    }

    pub(super) fn reset(&mut self) -> Touched {
        let before = std::mem::replace(self, Self::new(self.layout));
        self.touched_since(&before)
    }

    pub(super) fn shows_silence(&self) -> bool {
        !self.control.enable() || self.mask != 0
    }

    pub(super) fn read_config(&self, offset: u16, data: &mut [u8]) {
        for lane in lanes(offset.into(), data.len()) {
            let register = usize::try_from(lane.dword).ok().and_then(|i| self.layout.registers().get(i));
            lane.read(register.map_or(0, |register| self.register(*register)), data);
        }
    }

    pub(super) fn write_config(&mut self, offset: u16, data: &[u8]) -> Touched {
        let before = self.clone();
        for lane in lanes(offset.into(), data.len()) {
            let register = usize::try_from(lane.dword).ok().and_then(|i| before.layout.registers().get(i));
            if let Some(register) = register {
                self.write_register(*register, lane.merge(self.register(*register), data));
            }
        }
        let writes_enable =
            lanes(offset.into(), data.len()).any(|lane| lane.dword == 0 && lane.enabled() >> 16 & 1 == 1);
        let touched = self.touched_since(&before);
        if writes_enable && before.control.enable() && self.control.enable() {
            touched.with_enable_write()
        } else {
            touched
        }
    }

    pub(super) fn vectors(&self) -> u32 {
        if self.control.enable() { self.granted() } else { 0 }
    }

    pub(super) fn delivery(&self, vector: Vector) -> Delivery {
        if vector.0 >= self.vectors() {
            Delivery::Off
        } else if self.mask.wrapping_shr(vector.0) & 1 == 1 {
            Delivery::Held
        } else {
            let low_bits = self.granted().saturating_sub(1);
            let data = self.message.data & !low_bits | vector.0;
            Delivery::Live(MsiMessage { data, ..self.message })
        }
    }
}
