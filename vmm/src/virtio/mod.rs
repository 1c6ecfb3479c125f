//! The VMM's own devices: virtio 1.2 over PCI, the modern interface only (virtio 1.2 §4.1).
//!
//! | part | owns |
//! |---|---|
//! | [`device`] | what a device model says of itself, and how it serves a request |
//! | [`rng`] | the entropy device |
//! | [`queue`] | one virtqueue: its registers, and the ring behind them while it is enabled |
//! | [`registers`] | the device as its driver configures it: status, features, queues; plain state |
//! | [`transport`] | registers, device model, memory and interrupts, put together |
//! | [`worker`] | the thread that serves the queues |
//! | [`pci`] | the function on the bus: capabilities, BAR, doorbells |
//!
//! A driver's doorbell is an ioeventfd: it wakes the worker, and the vCPU goes on at once. The worker takes one
//! request, has the device model serve it, puts it in the used ring and triggers the queue's vector, which is one
//! KVM_SIGNAL_MSI. There is no INTx: a driver without MSI-X has to poll.
//!
//! Locks, outermost first: configuration space, the transport's registers, the library's. The worker holds the
//! registers for one request at a time, so a reset does not wait for a queue to run dry, and nothing of a device happens
//! once it has been reset.
//!
//! A guest may write anything anywhere: addresses are checked when a queue is enabled, a chain is followed for as many
//! descriptors as the queue has entries, a ring that makes no sense stops the device with DEVICE_NEEDS_RESET.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod attach;
pub mod device;
pub mod pci;
pub mod queue;
pub mod registers;
pub mod rng;
pub mod transport;
pub mod worker;

pub use attach::{Machine, attach};
pub use device::{Device, Identity};
pub use rng::Rng;
pub use transport::Transport;

#[cfg(test)]
mod tests;
