//! Devices of the VMM's own whose interrupts come from an interrupt message store: what they are to a driver is
//! `vmm/ims-devices.md`.
//!
//! | part | owns |
//! |---|---|
//! | [`registers`] | where the registers are |
//! | [`interrupts`] | what a device signals with: slots in a BAR and in memory, MSI-X |
//! | [`bar_slots`] | the slots in a BAR, whoever fires them: the VMM, or a device of the host's ([`crate::mediated`]) |
//! | [`device`] | a model, its interrupts and the registers that every device has, put together |
//! | [`queues`] | the model that signals when it is rung |
//! | [`timer`], [`deadlines`] | the model that signals when a time is over |
//! | [`config`], [`function`] | the function on the bus: header, capabilities, BARs |
//! | [`events`], [`maintenance`] | what they need of the event loop, and of a thread that tries again |
//!
//! A trigger of a slot that the VMM fires is one KVM_SIGNAL_MSI, under the vCPU's write or in the event loop. It needs no
//! thread, no eventfd and no route, however many slots there are.
//!
//! Locks, outermost first: configuration space, the device's, the library's. A device's lock is held for a trigger, and
//! for each write to its slots: what is decided about a slot is so when the slot is triggered.
//!
//! A guest may write anything anywhere: a write costs at most one look at each slot, a deadline one entry a slot.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod attach;
pub mod bar_slots;
pub mod config;
pub mod deadlines;
pub mod device;
pub mod events;
pub mod function;
pub mod interrupts;
pub mod maintenance;
pub mod queues;
pub mod registers;
pub mod timer;

pub use attach::{Machine, attach};
pub use bar_slots::BarSlots;
pub use device::{Device, Model};
pub use events::DeviceEvents;
pub use maintenance::Maintenance;

#[cfg(test)]
mod tests;
