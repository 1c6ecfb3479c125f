//! Guest memory: RAM as the guest has it, and what is mapped into its physical address space.
//!
//! Owns the host mappings behind RAM ([`ram`]) and KVM's memory slots ([`slots`]). RAM lives as long as the
//! VM; BARs of passed-through devices come and go through the same [`Slots`].

mod host;
pub mod ram;
pub mod slots;

pub(crate) use host::populate;
pub use ram::GuestMemory;
pub use slots::{Access, Slot, Slots};
