//! One slot: four DWORDs, and the resulting delivery.

use super::format::ControlFormat;
use crate::delivery::Delivery;
use crate::message::MsiMessage;

/// The index of the control DWORD in a slot.
pub(crate) const CONTROL: u64 = 3;

/// Address low, address high, data, control. An unused slot costs these 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot([u32; 4]);

impl Slot {
    /// The value after reset: masked, and blank.
    pub(super) fn reset(format: ControlFormat) -> Self {
        Self::new(MsiMessage::BLANK, format.reset())
    }

    pub(super) fn new(message: MsiMessage, control: u32) -> Self {
        Self([message.address_low(), message.address_high(), message.data, control])
    }

    /// A slot from its bytes in memory, little-endian. Reserved bits and the pending bit are dropped, as in a
    /// write.
    pub(super) fn from_memory(bytes: [u8; 16], format: ControlFormat) -> Self {
        let bytes = u128::from_le_bytes(bytes);
        let [low, high, data, control] = [0, 32, 64, 96].map(|shift| bytes.wrapping_shr(shift) as u32);
        Self([low, high, data, format.written(control)])
    }

    pub(super) fn message(self) -> MsiMessage {
        let [low, high, data, _] = self.0;
        MsiMessage::from_registers(low, high, data)
    }

    pub(super) fn control(self) -> u32 {
        let [.., control] = self.0;
        control
    }

    pub(super) fn register(self, index: u64) -> u32 {
        usize::try_from(index).ok().and_then(|index| self.0.get(index)).copied().unwrap_or_default()
    }

    pub(super) fn with_register(mut self, index: u64, value: u32, format: ControlFormat) -> Self {
        let value = if index == CONTROL { format.written(value) } else { value };
        if let Some(register) = usize::try_from(index).ok().and_then(|index| self.0.get_mut(index)) {
            *register = value;
        }
        self
    }

    /// A slot without a message is off if it is masked or has no mask bit: its driver has not requested it,
    /// or has freed it.
    pub(super) fn delivery(self, format: ControlFormat) -> Delivery {
        let is_masked = format.is_masked(self.control());
        let message = self.message();
        if message == MsiMessage::BLANK && (is_masked || !format.can_mask()) {
            Delivery::Off
        } else if is_masked {
            Delivery::Held
        } else {
            Delivery::Live(message)
        }
    }
}
