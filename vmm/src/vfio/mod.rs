//! Passed-through devices: PCI functions of the host that the guest drives through VFIO.
//!
//! | part | owns |
//! |---|---|
//! | [`sysfs`], [`selection`], [`placement`] | device selection: checks before any device is opened, and addresses in the guest |
//! | [`container`], `coherency` | the IOMMU mappings of guest memory, shared by all devices, and KVM's VFIO device |
//! | [`region`], `region_info`, `ioctl` | access to a device's regions, and the areas that the host can mmap |
//! | [`guest_config`], [`capabilities`], [`registers`] | the guest's configuration space: plain state and tables |
//! | [`quirks`] | known devices that need care |
//! | [`mmap_ranges`], [`mapping`] | BAR pages that the guest accesses without an exit |
//! | [`peers`] | BARs as targets of other devices' DMA |
//! | [`rom`] | expansion ROMs |
//! | [`table_pages`] | MSI-X table pages that the guest reads without an exit |
//! | [`interrupts`], [`host_interrupts`] | MSI and MSI-X, which the vm-msi crate emulates, and the host's counts |
//! | [`intx`] | INTx, enabled while MSI and MSI-X are disabled |
//! | [`events`], [`maintenance`] | interrupt delivery on the event loop, and retries on a thread |
//! | [`device_info`] | a device after opening: its reset, configuration space and regions |
//! | [`device`], [`mod@attach`] | one function on the bus |
//!
//! Plain state serves the guest's accesses. Only [`device`] forwards them to the host. Capabilities that do not work in a
//! guest are hidden.
//!
//! Locks, outermost first: the bus, a device's configuration space, the vm-msi crate's locks,
//! INTx, the IOAPIC.
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
pub mod host_interrupts;
pub mod interrupts;
pub mod intx;
mod ioctl;
pub mod maintenance;
pub mod mapping;
pub mod mmap_ranges;
pub mod peers;
pub mod placement;
pub mod quirks;
pub mod region;
mod region_info;
pub mod registers;
pub mod rom;
pub mod selection;
pub mod sysfs;
pub mod table_pages;

pub use attach::{VmResources, attach};
pub use device::Device;
pub use device_info::OpenedDevice;
pub use events::DeviceEvents;
pub use maintenance::Maintenance;
pub use peers::PeerToPeer;
pub use rom::RomSource;
pub use selection::{Selected, select};
pub use sysfs::{HostAddress, HostDevice, Sysfs};
pub(crate) use sysfs::{leaves_group_viable, link_name};

#[cfg(any(test, feature = "fuzzing"))]
mod config_tests;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzed;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzzed::{fuzzed_config_space, fuzzed_function, fuzzed_region_areas};
#[cfg(test)]
mod tests;
