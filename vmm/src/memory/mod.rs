//! Guest memory: RAM, and KVM's memory slots.
//!
//! Owns the host mappings behind RAM ([`ram`]) and the numbers of the memory slots ([`slots`]). RAM lives as long as
//! the VM. BARs of passed-through devices come and go through the same [`Slots`].
//!
//! Invariant: host memory stays mapped while the guest sees it. One lock protects the slot numbers.

mod mmap;
pub mod ram;
pub mod slots;

pub use mmap::FileMapping;
pub(crate) use mmap::{Scratch, populate};
pub use ram::GuestMemory;
pub use slots::{Access, HostMemory, Slot, Slots};
