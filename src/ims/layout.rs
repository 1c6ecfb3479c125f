//! The number of slots of a store, and their format. Checked when it is made, immutable afterwards.

use super::format::ControlFormat;

/// Bytes of a slot: address low, address high, data, control.
pub const SLOT_BYTES: u64 = 16;

/// The number of slots of a store: 1 to 65,536.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotCount(u32);

impl SlotCount {
    /// The largest store.
    pub const MAX: Self = Self(65_536);

    /// `None` outside 1 to 65,536.
    pub const fn new(slots: u32) -> Option<Self> {
        if slots >= 1 && slots <= Self::MAX.0 { Some(Self(slots)) } else { None }
    }

    /// The number of slots.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The layout of an array of slots. The embedder chooses its BAR and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotArrayLayout {
    /// The number of slots.
    pub slots: SlotCount,
    /// The format of their control DWORD.
    pub control: ControlFormat,
}

impl SlotArrayLayout {
    /// Size of the array in bytes.
    pub fn bytes(self) -> u64 {
        SLOT_BYTES.saturating_mul(self.slots.get().into())
    }
}

/// The layout of a store whose slots are in guest memory. The guest sets the address of each slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    /// The number of slots.
    pub slots: SlotCount,
    /// The format of their control DWORD. A pending bit reads as 1 only in the copies, because the device
    /// never writes to guest memory.
    pub control: ControlFormat,
}

impl QueueLayout {
    /// The layout of the copies, which are an array.
    pub(super) fn copies(self) -> SlotArrayLayout {
        let Self { slots, control } = self;
        SlotArrayLayout { slots, control }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_1_to_65536_slots() {
        assert_eq!((SlotCount::new(0), SlotCount::new(65_537)), (None, None));
        assert_eq!(SlotCount::new(65_536), Some(SlotCount::MAX));
        let layout = SlotArrayLayout { slots: SlotCount::MAX, control: ControlFormat::DSA };
        assert_eq!(layout.bytes(), 1 << 20);
    }
}
