//! The crate on real KVM. A guest without an operating system makes the accesses of a driver and takes the interrupts, so each test shows
//! what a guest sees and what the kernel does.
//!
//! All tests need /dev/kvm, and fail with that reason without it. They are one binary, so that the lab host is booted once.
#![cfg(target_arch = "x86_64")]

mod bare_metal;
mod budget;
mod closing;
mod delivery;
mod destinations;
mod drivers;
mod endless;
mod faults;
mod hostile;
mod ims;
mod ims_formats;
mod ims_memory;
mod line;
mod messages;
mod overcommit;
mod parked;
mod remapping;
mod routing;
mod several;
mod sharing;
mod shortage;
mod snapshot;
mod software;
mod storm;
mod unaccepted;
mod unplug;
