//! A minimal VMM that embeds vm-msi and boots Linux guests with passed-through devices.
//!
//! The binary is a thin entry point over this library, so that every part has unit tests.

pub mod boot;
pub mod check;
pub mod cli;
pub mod config;
pub mod devices;
pub mod error;
pub mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod ims;
pub mod interrupts;
pub mod kvm;
pub mod layout;
pub mod limits;
pub mod log;
pub mod mediated;
pub mod memory;
pub mod outcome;
pub mod pci;
pub mod printable;
pub mod privileges;
pub mod report;
pub mod sandbox;
mod sched;
pub mod serial;
pub mod tap;
pub mod vcpu;
pub mod vfio;
pub mod virtio;
pub mod vm;
