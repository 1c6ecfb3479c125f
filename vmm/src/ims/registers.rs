//! Where the registers are in BAR 0: byte offsets of DWORDs. What they do is told in `vmm/ims-devices.md`.

/// Which device it is, in four letters.
pub const IDENTIFICATION: u64 = 0x000;
/// The version of this page of registers.
pub const VERSION: u64 = 0x004;
/// How many slots are in BAR 2.
pub const SLOTS: u64 = 0x008;
/// How many slots are in guest memory.
pub const MEMORY_SLOTS: u64 = 0x00c;
/// How many queues there are.
pub const QUEUES: u64 = 0x010;
/// Control: bit 0 resets the device.
pub const CONTROL: u64 = 0x014;
/// The bit of [`CONTROL`] that resets.
pub const CONTROL_RESET: u32 = 1 << 0;
/// Triggers so far.
pub const TRIGGERS: u64 = 0x030;
/// Triggers of slots that are off.
pub const DROPPED: u64 = 0x034;
/// Writes that were refused.
pub const REFUSED: u64 = 0x038;

/// Rings a queue.
pub const RING: u64 = 0x020;
/// Triggers an MSI-X vector.
pub const RING_MSIX: u64 = 0x024;
/// A slot in memory, for [`SELECTED`].
pub const SELECT: u64 = 0x040;
/// The selected slot's control, and whether it has a place.
pub const SELECTED: u64 = 0x044;
/// The bit of [`SELECTED`] that says that it has.
pub const SELECTED_PLACED: u32 = 1 << 31;
/// A guest-physical address, low half.
pub const ADDRESS_LOW: u64 = 0x048;
/// High half.
pub const ADDRESS_HIGH: u64 = 0x04c;
/// Places a slot in memory at that address.
pub const PLACE: u64 = 0x050;
/// Has a slot in memory read.
pub const DOORBELL: u64 = 0x054;
/// What became of the last of these two.
pub const RESULT: u64 = 0x058;

/// Nanoseconds, low half.
pub const NANOSECONDS_LOW: u64 = 0x080;
/// High half.
pub const NANOSECONDS_HIGH: u64 = 0x084;
/// Arms a slot.
pub const ARM: u64 = 0x088;
/// Disarms a slot.
pub const DISARM: u64 = 0x08c;
/// How many are armed.
pub const ARMED: u64 = 0x090;
/// The device's clock in nanoseconds, low half.
pub const CLOCK_LOW: u64 = 0x094;
/// High half.
pub const CLOCK_HIGH: u64 = 0x098;

/// A 64-bit register that is written in halves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halves {
    /// Bits 31:0.
    pub low: u32,
    /// Bits 63:32.
    pub high: u32,
}

impl Halves {
    /// The whole.
    #[must_use]
    pub fn whole(self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}
