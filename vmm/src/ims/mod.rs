//! Emulated devices with an interrupt message store (IMS). `vmm/ims-devices.md` describes their registers.
//!
//! | part | owns |
//! |---|---|
//! | [`registers`] | register offsets |
//! | [`interrupts`] | the interrupts of a device: slots in a BAR and in memory, MSI-X |
//! | [`bar_slots`] | the slots in a BAR, fired by the VMM or by a host device ([`crate::mediated`]) |
//! | [`device`] | a model, its interrupts, and the registers that every device has |
//! | [`queues`] | the model whose doorbells trigger slots |
//! | [`timer`], [`deadlines`] | the model whose timers trigger slots |
//! | [`config`], [`function`] | the function on the bus: header, capabilities, BARs |
//! | [`events`], [`maintenance`] | timers and relayed interrupts on the event loop, and retries on a thread |
//!
//! A trigger of a slot that the VMM fires is one KVM_SIGNAL_MSI, on the vCPU's thread or in the event loop. It needs
//! no thread, no eventfd and no route.
//!
//! Locks, outermost first: configuration space, the device's, the vm-msi crate's. A device's lock is held during a
//! trigger and during each write to its slots.
//!
//! A guest may write any value to any register. A write costs at most one check of each slot, and one deadline for
//! each slot.
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

pub use attach::{VmResources, attach};
pub use bar_slots::BarSlots;
pub use device::{Device, Model};
pub use events::DeviceEvents;
pub use maintenance::Maintenance;

#[cfg(test)]
mod tests;
