//! MSI as a guest sees it (PCIe r6 §6.1.4, §7.7.1): one message for 1 to 32 vectors, as plain state.
//!
//! Owns the registers. Invariant: after any access of any offset, width and value the state is one that a
//! function could have, and [`Touched`] names every vector whose [`Delivery`] changed. The vectors' messages
//! are contiguous by construction: they differ in the low bits of the data, which are the function's to set.
//! Pending bits are the domain's.

pub mod layout;
pub mod regs;
mod state;

pub use layout::{AddressWidth, MessageCount, MsiLayout, MsiLayoutError, VectorMasking};
pub use regs::MessageControl;
pub use state::MsiState;

use std::sync::Mutex;

use crate::access::lanes;
use crate::backend::{Capabilities, Growth};
use crate::capability::Capability;
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::message::MsiMessage;
use crate::registers::{Registers, lock};
use crate::state::RestoreError;
use layout::{CAPABILITY_ID, Register};

/// A function's MSI registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msi {
    layout: MsiLayout,
    control: MessageControl,
    message: MsiMessage,
    mask: u32,
}

impl Msi {
    /// Message Control as it reads now.
    pub fn control(&self) -> MessageControl {
        self.control
    }

    /// How many vectors the function was given: what software allows, and no more than it asked for.
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
            // Extended data is not carried: the upper half is reserved.
            Register::Data => self.message.data = value & 0xffff,
            Register::Mask => self.mask = value & self.vector_bits(),
            Register::Pending => {}
        }
    }

    /// A bit for each vector that the function asks for; the other mask bits are reserved.
    fn vector_bits(&self) -> u32 {
        u32::MAX.wrapping_shr(32u32.saturating_sub(self.layout.messages().get()))
    }

    /// What a change of these registers may have altered.
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
}

impl Registers for Msi {
    type Layout = MsiLayout;
    type State = MsiState;
    type Shared = Mutex<Self>;

    fn at_power_on(layout: &MsiLayout) -> Self {
        Self { layout: *layout, control: layout.control(), message: MsiMessage::BLANK, mask: 0 }
    }

    fn capacity(layout: &MsiLayout) -> u32 {
        layout.messages().get()
    }

    /// All messages together, where there are several.
    fn needs(layout: &MsiLayout) -> Capabilities {
        let vectors = Self::capacity(layout);
        Capabilities {
            vectors,
            growth: Growth::Reserved,
            independent: false,
            multi_message: vectors > 1,
            ims: false,
            cookies: false,
        }
    }

    fn state(&self) -> MsiState {
        self.to_state()
    }

    fn from_state(layout: &MsiLayout, state: &MsiState) -> Result<Self, RestoreError> {
        Self::try_from_state(layout, state)
    }

    fn reset(&mut self) -> Touched {
        let before = std::mem::replace(self, Self::at_power_on(&self.layout));
        self.touched_since(&before)
    }
}

impl Capability for Msi {
    fn pending_register(layout: &MsiLayout) -> Option<u16> {
        let dword = layout.registers().iter().position(|register| *register == Register::Pending)?;
        u16::try_from(dword).ok()?.checked_mul(4)
    }

    fn shows_silence(&self) -> bool {
        !self.control.enable() || self.mask != 0
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        for lane in lanes(offset.into(), data.len()) {
            let register = usize::try_from(lane.dword).ok().and_then(|i| self.layout.registers().get(i));
            lane.read(register.map_or(0, |register| self.register(*register)), data);
        }
    }

    fn write_config(registers: &Mutex<Self>, offset: u16, data: &[u8]) -> Touched {
        let registers = &mut *lock(registers);
        let before = registers.clone();
        for lane in lanes(offset.into(), data.len()) {
            let register = usize::try_from(lane.dword).ok().and_then(|i| before.layout.registers().get(i));
            if let Some(register) = register {
                registers.write_register(*register, lane.merge(registers.register(*register), data));
            }
        }
        let writes_enable =
            lanes(offset.into(), data.len()).any(|lane| lane.dword == 0 && lane.enabled() >> 16 & 1 == 1);
        let touched = registers.touched_since(&before);
        if writes_enable && before.control.enable() && registers.control.enable() {
            touched.with_enable_write()
        } else {
            touched
        }
    }
}

impl Store for Msi {
    fn vectors(&self) -> u32 {
        if self.control.enable() { self.granted() } else { 0 }
    }

    fn delivery(&self, vector: Vector) -> Delivery {
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
