//! How many slots a store has, and what they look like. Checked when it is made, immutable afterwards.

use super::format::ControlFormat;

/// Bytes of a slot: address low, address high, data, control.
pub const SLOT_BYTES: u64 = 16;

/// How many slots a store has: 1 to 65,536.
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

/// The shape of an array of slots. Where it is in which BAR is the embedder's to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotArrayLayout {
    /// How many slots.
    pub slots: SlotCount,
    /// What their control DWORD means.
    pub control: ControlFormat,
}

impl SlotArrayLayout {
    /// Bytes of the whole array.
    pub fn bytes(self) -> u64 {
        SLOT_BYTES.saturating_mul(self.slots.get().into())
    }
}

/// The shape of a store whose slots are in guest memory. Where is the guest's to say, slot by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    /// How many slots.
    pub slots: SlotCount,
    /// What their control DWORD means. A pending bit reads as one in the copies alone: nothing is ever written to guest
    /// memory.
    pub control: ControlFormat,
}

impl QueueLayout {
    /// The copies of the slots are an array.
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
