//! Where in guest memory a slot is, and why it cannot be read there.
//!
//! Invariant: a place is a multiple of 16 bytes, so no slot lies across two pages, and an aligned read can have it whole.

use std::num::NonZeroU64;

use vm_memory::GuestAddress;

use super::layout::SLOT_BYTES;
use crate::delivery::Vector;

/// A guest address that is a multiple of 16. As small as the address, also as an `Option`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotAddress(NonZeroU64);

/// A bit that no address of a place has: with it, 0 is none.
const SET: u64 = 1;

impl SlotAddress {
    /// `None` where `address` is not a multiple of 16.
    pub(super) fn new(address: GuestAddress) -> Option<Self> {
        if address.0.is_multiple_of(SLOT_BYTES) { NonZeroU64::new(address.0 | SET).map(Self) } else { None }
    }

    pub(super) fn address(self) -> GuestAddress {
        GuestAddress(self.0.get() & !SET)
    }
}

/// Why a slot in guest memory could not be placed, or not be read. The guest's doing: a device model shows it to its
/// guest, and nothing fails in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotRefusal {
    /// The store has fewer slots.
    #[error("there is no slot {slot}: the store has {slots}")]
    NoSuchSlot {
        /// The one that was named.
        slot: Vector,
        /// How many there are.
        slots: u32,
    },
    /// A slot's address is a multiple of 16.
    #[error("slot {slot} cannot be at {:#x}, which is no multiple of 16", .address.0)]
    Misaligned {
        /// The slot.
        slot: Vector,
        /// Where it was to be.
        address: GuestAddress,
    },
    /// The guest has not said where the slot is.
    #[error("slot {slot} is nowhere")]
    Unplaced {
        /// The slot.
        slot: Vector,
    },
    /// There is no memory at its address, or none any more.
    #[error("slot {slot} is at {:#x}, where there is no memory", .address.0)]
    NotMemory {
        /// The slot.
        slot: Vector,
        /// Where it is.
        address: GuestAddress,
    },
    /// Its 16 bytes are not in one region of memory.
    #[error("slot {slot} is at {:#x}, across the end of a region of memory", .address.0)]
    Straddles {
        /// The slot.
        slot: Vector,
        /// Where it is.
        address: GuestAddress,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_any_multiple_of_16_and_costs_no_more_than_its_address() {
        for address in [0, 16, 0x1230, u64::MAX - 15] {
            let place = SlotAddress::new(GuestAddress(address)).unwrap();
            assert_eq!(place.address(), GuestAddress(address));
        }
        for address in (1..16).chain([u64::MAX]) {
            assert_eq!(SlotAddress::new(GuestAddress(address)), None);
        }
        assert_eq!(size_of::<Option<SlotAddress>>(), 8);
    }
}
