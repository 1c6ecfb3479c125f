//! Guest-facing message-signalled interrupts for Rust VMMs, on per-device interrupt domains that grow, and
//! shrink, vector by vector as the guest asks, with no interrupt ever lost.
//!
//! | part | owns | never does |
//! |---|---|---|
//! | [`msi`], [`msix`], [`ims`] | the registers that a guest sees | I/O, locks, logging, panics |
//! | [`domain`] | what each vector *is* in the host, and the way to what it *should be* | look at registers |
//! | [`publisher`] | the routing table: messages, their GSIs, the embedder's own entries | know the hypervisor |
//! | [`router`], [`kvm`] | routes of messages, irqfds | know vectors or devices |
//! | [`line`](mod@line) | one source of the VMM's own: one eventfd, one message | know devices |
//! | [`remap`] | what a function's messages mean now, where the guest remaps them | call back into a domain |
//! | [`budget`] | how many host vectors a device and a VM may have | know which |
//! | [`backend`], [`vfio`] | which eventfd a host vector fires | know messages |
//! | [`pool`] | who has which of a device's host vectors, where several functions share it | say who gets them |
//! | [`maintenance`], [`events`] | one descriptor and one call for what is not on a guest's path: delivery where the kernel has no room, deferred host vectors, retries, expiry | decide anything |
//! | [`function`] | one PCI function's interrupts, put together for an embedder | anything of its own |
//! | [`state`] | a function's interrupts as data, for snapshots | trust what it reads |
//!
//! A guest's write changes registers and yields the vectors it [touched](delivery::Touched). The device's
//! domain then compares what each of them should be ([`Delivery`]) with what the host has, and takes the
//! steps between in the one order that loses nothing. `src/design.md` tells the whole story and its rules.
//!
//! Nothing in this crate panics on what a guest does. A guest's mistake gets the value that the PCI
//! specification gives it and a counter; a host's failure is a typed error, the vector stays held (its
//! interrupts wait in its eventfd), and the step is tried again.
//!
//! # Features
//!
//! | feature | default | adds | dependencies |
//! |---|---|---|---|
//! | `kvm` | yes | [`kvm`]: the router over KVM | `kvm-ioctls`, `kvm-bindings` |
//! | `vfio` | yes | [`vfio`]: backends over VFIO | `vfio-bindings` |
//! | `events` | no | [`events`]: event-manager subscribers | `event-manager` |
//! | `bus` | no | [`mmio`]: devices for a vm-device bus | `vm-device` |
//! | `ims` | no | [`ims`], [`pool`]: interrupt message stores with cookies, pools of host vectors | `vm-memory` |
//! | `serde` | no | states and reports as serde data | `serde` |
//! | `test-utils` | no | [`testing`]: fakes and a reference model | those of `ims` |
//! | `arbitrary` | no | arbitrary operations for fuzzers | `arbitrary`, those of `test-utils` |
//!
//! MSI, MSI-X, domains, budgets, remapping, states and both seams need no feature. The seams have one shape for every set of
//! features: `Backend::set_cookie` exists without `ims`, because a backend that wraps another one must pass cookies on whichever
//! crate of the VMM enables them.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![cfg_attr(
    test,
    allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails, which is its purpose")
)]

pub mod access;
pub mod apic;
pub mod backend;
pub mod budget;
pub mod capability;
pub mod delivery;
pub mod domain;
#[cfg(feature = "events")]
pub mod events;
pub mod function;
#[cfg(feature = "ims")]
pub mod ims;
pub mod interrupt;
#[cfg(feature = "kvm")]
pub mod kvm;
pub mod line;
pub mod maintenance;
pub mod message;
#[cfg(feature = "bus")]
pub mod mmio;
pub mod msi;
pub mod msix;
#[cfg(feature = "ims")]
pub mod pool;
pub mod publisher;
pub mod refusal;
pub mod registers;
pub mod remap;
pub mod requester;
pub mod router;
mod signalled;
pub mod state;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
#[cfg(feature = "vfio")]
pub mod vfio;

pub use backend::Backend;
pub use budget::{DeviceBudget, VmBudget};
pub use capability::PciCapability;
pub use delivery::{Delivery, Store, Touched, Vector};
pub use domain::{DeviceDomain, Domain, SoftwareDomain};
pub use function::{Function, MsiFunction, MsixFunction, SoftwareMsix};
#[cfg(feature = "ims")]
pub use function::{ImsFunction, QueueFunction, SoftwareIms, SoftwareQueue};
pub use interrupt::{DeviceId, Interrupt, Target};
pub use maintenance::Maintenance;
pub use message::MsiMessage;
pub use registers::Registers;
pub use requester::RequesterId;
pub use router::Router;

/// The supertrait of public traits that only this crate implements.
mod sealed {
    pub trait Sealed {}
}

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
