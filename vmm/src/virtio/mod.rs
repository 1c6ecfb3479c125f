//! virtio 1.2 devices over PCI, the modern interface only (virtio 1.2 §4.1).
//!
//! # Device models
//!
//! A [`Model`] is a [`Device`], which all threads share (identity, features, configuration, report), and a [`Handler`] for
//! each *lane*. A lane is one or more queues that one thread serves: each queue of a disk, or each RX/TX pair of a network
//! device. Its thread waits for the doorbells of its queues and for the descriptors that the handler
//! [watches](Lane::watch), and calls the handler, which has `&mut self`:
//!
//! | call | time | use |
//! |---|---|---|
//! | [`Handler::init`] | before the guest starts | watch own descriptors |
//! | [`Handler::start`] | a queue becomes live | set up a host worker such as vhost-net, or nothing |
//! | [`Handler::queue_ready`] | the doorbell rang | take chains |
//! | [`Handler::descriptor_ready`] | a watched descriptor is ready | complete chains |
//! | [`Handler::stop`] | a live queue stops | cancel what can be cancelled |
//!
//! [`LiveQueue::pop`] takes a [`Chain`], whose [`Buffers`] are guest-physical ranges, or slices of host memory without a
//! copy. The handler may keep chains, and [completes](LiveQueue::complete) them in any order. Completed chains are published
//! after each call, with one decision about the interrupt. A call takes at most as many chains of a queue as it has
//! entries; the lane calls again if there are more.
//!
//! A queue that the host serves ([`Service::Host`]): the handler passes [`LiveQueue::areas`], its size and position,
//! [`Lane::doorbell`] and [`Lane::call`] to the host. The call eventfd is the irqfd of the queue's vector, if
//! [`Device::interrupt_source`] says so.
//!
//! A configuration is a [`DeviceConfig`]. [`DeviceConfig::update`] changes it and notifies the driver.
//!
//! # Parts
//!
//! | part | owns |
//! |---|---|
//! | [`device`], [`handler`] | the interface of a device model |
//! | [`device_config`] | the device-specific configuration |
//! | [`rng`], [`blk`], [`net`], [`console`], [`vsock`] | the entropy device, disks, network devices, the console, sockets |
//! | [`chain`] | a descriptor chain that was taken |
//! | [`live_queue`] | a ring, while it is live |
//! | [`lane`], [`lane_loop`], [`worker`] | queues as their handler sees them, their event loop, and its thread |
//! | [`queue`], [`registers`] | status, features and queues, as the driver configures them; plain state |
//! | [`transport`] | the registers' lock, and the signals between vCPUs and lanes |
//! | [`interrupts`] | MSI-X |
//! | [`pci`] | the function on the bus: capabilities, BAR, doorbells |
//! | `vhost` | rings that the host's kernel serves |
//! | [`placement`] | addresses on the bus that a person has chosen |
//!
//! A doorbell is an ioeventfd: it wakes the lane, and the vCPU continues at once. There is no INTx: a driver without
//! MSI-X must poll.
//!
//! # Locks and resets
//!
//! Locks, outermost first: configuration space, the transport's registers, a device's configuration, the vm-msi crate's. A
//! lane owns its rings and takes none of these for a request; it takes the registers' lock to start and stop queues.
//!
//! A driver's write changes the registers, and each lane follows. After a reset, the lane takes no further chain, and
//! publishes none of those in flight. It gives the ring back when the handler has completed all of them. Until then the
//! status reads as before the reset (virtio 1.2 §2.4), and `queue_reset` reads 1 (§2.6.1.1). No vCPU waits in an exit.
//! While Bus Master Enable is clear, the lanes pause in the same way and keep their rings.
//!
//! A guest may write any value to any register. Queue addresses are checked when a queue is enabled. A chain is
//! followed for as many descriptors as the queue has entries. A malformed ring stops the device with
//! DEVICE_NEEDS_RESET.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod attach;
pub mod blk;
pub mod chain;
pub mod console;
pub mod device;
pub mod device_config;
pub mod handler;
pub mod interrupts;
pub mod lane;
pub mod lane_loop;
pub mod live_queue;
pub mod net;
pub mod pci;
pub mod placement;
pub mod queue;
pub mod registers;
pub mod rng;
pub mod transport;
mod vhost;
pub mod vsock;
pub mod worker;

pub use attach::{VmResources, attach};
pub use blk::{Disk, DiskImage, ImageAccess};
pub use chain::{Buffers, Chain, ChainFault};
pub use device::{Device, Identity, LaneModel, Model};
pub use device_config::DeviceConfig;
pub use handler::{Handler, Service, Token};
pub use interrupts::InterruptSource;
pub use lane::Lane;
pub use live_queue::LiveQueue;
pub use rng::Rng;
pub use vsock::Vsock;

#[cfg(test)]
mod tests;
