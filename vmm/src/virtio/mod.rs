//! virtio 1.2 devices over PCI, the modern interface only (virtio 1.2 §4.1).
//!
//! | part | owns |
//! |---|---|
//! | [`device`] | the interface of a device model |
//! | [`rng`] | the entropy device |
//! | [`queue`] | one virtqueue: its registers and its ring |
//! | [`registers`] | status, features and queues, as the driver configures them; plain state |
//! | [`transport`] | registers, device model, memory and interrupts of a device |
//! | [`worker`] | the thread that serves the queues |
//! | [`pci`] | the function on the bus: capabilities, BAR, doorbells |
//!
//! A doorbell is an ioeventfd: it wakes the worker, and the vCPU continues at once. The worker takes a request, calls
//! the device model, adds the chain to the used ring and triggers the queue's vector by one KVM_SIGNAL_MSI. There is
//! no INTx: a driver without MSI-X must poll.
//!
//! Locks, outermost first: configuration space, the transport's registers, the vm-msi crate's. The worker holds the
//! registers for one request at a time. A reset does not wait until a queue is empty, and nothing happens after the
//! reset of a device.
//!
//! A guest may write any value to any register. Queue addresses are checked when a queue is enabled. A chain is
//! followed for as many descriptors as the queue has entries. A malformed ring stops the device with
//! DEVICE_NEEDS_RESET.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod attach;
pub mod device;
pub mod net;
pub mod pci;
pub mod queue;
pub mod registers;
pub mod rng;
pub mod transport;
pub mod worker;

pub use attach::{VmResources, attach};
pub use device::{Device, Identity};
pub use rng::Rng;
pub use transport::Transport;

#[cfg(test)]
mod tests;
