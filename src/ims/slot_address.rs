//! The address of a slot in guest memory, and the errors of reading a slot.
//!
//! Invariant: an address is a multiple of 16. A slot therefore never crosses a page, and one aligned load
//! reads all of it.

use std::num::NonZeroU64;

use vm_memory::GuestAddress;

use super::layout::SLOT_BYTES;
use crate::delivery::Vector;

/// A guest address that is a multiple of 16. An `Option` of it takes 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotAddress(NonZeroU64);

/// A bit that is clear in every address of a slot. It is set in the stored value, so that 0 is free for
/// `None`.
const MARKER: u64 = 1;

impl SlotAddress {
    /// `None` if `address` is not a multiple of 16.
    pub(super) fn new(address: GuestAddress) -> Option<Self> {
        if address.0.is_multiple_of(SLOT_BYTES) {
            NonZeroU64::new(address.0 | MARKER).map(Self)
        } else {
            None
        }
    }

    pub(super) fn address(self) -> GuestAddress {
        GuestAddress(self.0.get() & !MARKER)
    }
}

/// Why a command for a slot in guest memory was refused. The cause is the guest. A device model reports the
/// refusal to its guest. Nothing has failed in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotRefusal {
    /// The store has fewer slots.
    #[error("slot {slot} does not exist: the store has {slots} slots")]
    NoSuchSlot {
        /// The requested slot.
        slot: Vector,
        /// The number of slots.
        slots: u32,
    },
    /// The address is not a multiple of 16.
    #[error("slot {slot} cannot be at {:#x}, which is not a multiple of 16", .address.0)]
    Misaligned {
        /// The slot.
        slot: Vector,
        /// The requested address.
        address: GuestAddress,
    },
    /// The guest has not set the slot's address.
    #[error("slot {slot} has no address")]
    NoAddress {
        /// The slot.
        slot: Vector,
    },
    /// There is no guest memory at the slot's address.
    #[error("slot {slot} is at {:#x}, where the guest has no memory", .address.0)]
    NotMemory {
        /// The slot.
        slot: Vector,
        /// The slot's address.
        address: GuestAddress,
    },
    /// The slot's 16 bytes are not in one region of guest memory.
    #[error("slot {slot} is at {:#x}, across the end of a memory region", .address.0)]
    Straddles {
        /// The slot.
        slot: Vector,
        /// The slot's address.
        address: GuestAddress,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_any_multiple_of_16_and_an_option_of_it_takes_8_bytes() {
        for address in [0, 16, 0x1230, u64::MAX - 15] {
            let slot = SlotAddress::new(GuestAddress(address)).unwrap();
            assert_eq!(slot.address(), GuestAddress(address));
        }
        for address in (1..16).chain([u64::MAX]) {
            assert_eq!(SlotAddress::new(GuestAddress(address)), None);
        }
        assert_eq!(size_of::<Option<SlotAddress>>(), 8);
    }
}
