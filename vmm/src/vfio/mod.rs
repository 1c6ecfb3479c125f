//! Passed-through devices: PCI functions of the host that the guest drives itself, over VFIO.
//!
//! | part | owns |
//! |---|---|
//! | [`host`] | which device a name means, and whether it is free: sysfs, before anything is touched |
//! | [`container`], `coherency` | the IOMMU's view of guest memory, shared by all devices, and KVM's |
//! | [`region`], `ioctl` | access to what the host gives of a device |
//! | [`guest_config`], [`capabilities`], [`registers`] | configuration space as the guest has it: plain state and tables |
//! | [`mmap_ranges`], [`mapping`] | the pages of BARs that the guest reaches without an exit |
//! | [`table_pages`] | those of an MSI-X table, which it only reads so |
//! | [`interrupts`], [`events`], [`maintenance`] | the library's emulation of MSI and MSI-X, what it needs of the event loop, and of a thread |
//! | [`device_info`] | a device after opening: reset, and looked at |
//! | [`device`], [`mod@attach`] | one function on the bus, put together |
//!
//! What a guest reads and writes is answered by plain state; what must reach the host is done by [`device`] alone.
//! INTx is not there (Interrupt Pin reads 0), nor are capabilities that do not work in a guest: they are hidden.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod attach;
pub mod capabilities;
mod coherency;
pub mod container;
pub mod device;
pub mod device_info;
pub mod events;
pub mod guest_config;
pub mod host;
pub mod host_interrupts;
pub mod interrupts;
mod ioctl;
pub mod maintenance;
pub mod mapping;
pub mod mmap_ranges;
pub mod region;
pub mod registers;
pub mod table_pages;

pub use attach::{Machine, attach};
pub use device::Device;
pub use device_info::OpenedDevice;
pub use events::DeviceEvents;
pub use host::{HostAddress, HostDevice, Sysfs};
pub use maintenance::Maintenance;

#[cfg(test)]
mod tests;
