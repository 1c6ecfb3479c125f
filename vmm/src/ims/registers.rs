//! Offsets of the registers in BAR 0, in bytes. Registers are DWORDs. `vmm/ims-devices.md` describes them.

/// Identification: four letters.
pub const IDENTIFICATION: u64 = 0x000;
/// Version of the register page.
pub const VERSION: u64 = 0x004;
/// Number of slots in BAR 2.
pub const SLOTS: u64 = 0x008;
/// Number of slots in guest memory.
pub const MEMORY_SLOTS: u64 = 0x00c;
/// Number of queues.
pub const QUEUES: u64 = 0x010;
/// Control: bit 0 resets the device.
pub const CONTROL: u64 = 0x014;
/// The reset bit of [`CONTROL`].
pub const CONTROL_RESET: u32 = 1 << 0;
/// Number of triggers.
pub const TRIGGERS: u64 = 0x030;
/// Number of triggers of slots that are off.
pub const DROPPED: u64 = 0x034;
/// Number of refused writes.
pub const REFUSED: u64 = 0x038;

/// Rings a queue.
pub const RING: u64 = 0x020;
/// Triggers an MSI-X vector.
pub const RING_MSIX: u64 = 0x024;
/// Selects a slot in memory for [`SELECTED`].
pub const SELECT: u64 = 0x040;
/// The selected slot's control register, and whether the slot has an address.
pub const SELECTED: u64 = 0x044;
/// The bit of [`SELECTED`] for a slot with an address.
pub const SELECTED_PLACED: u32 = 1 << 31;
/// A guest-physical address, low half.
pub const ADDRESS_LOW: u64 = 0x048;
/// Guest-physical address, high half.
pub const ADDRESS_HIGH: u64 = 0x04c;
/// Sets the address of a slot in memory.
pub const PLACE: u64 = 0x050;
/// Reads a slot in memory.
pub const DOORBELL: u64 = 0x054;
/// The result of the last `PLACE` or `DOORBELL`.
pub const RESULT: u64 = 0x058;

/// Nanoseconds, low half.
pub const NANOSECONDS_LOW: u64 = 0x080;
/// Nanoseconds, high half.
pub const NANOSECONDS_HIGH: u64 = 0x084;
/// Arms a slot.
pub const ARM: u64 = 0x088;
/// Disarms a slot.
pub const DISARM: u64 = 0x08c;
/// Number of armed slots.
pub const ARMED: u64 = 0x090;
/// The device's clock in nanoseconds, low half.
pub const CLOCK_LOW: u64 = 0x094;
/// The device's clock in nanoseconds, high half.
pub const CLOCK_HIGH: u64 = 0x098;

/// A 64-bit register, accessed in halves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halves {
    /// Bits 31:0.
    pub low: u32,
    /// Bits 63:32.
    pub high: u32,
}

impl Halves {
    /// The 64-bit value.
    #[must_use]
    pub fn whole(self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}
