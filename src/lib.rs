//! Guest-facing MSI, MSI-X and IMS for Rust VMMs. Each device has an interrupt domain. It allocates and
//! frees host vectors one by one, as the guest uses them. No interrupt is lost.
//!
//! ```
//! use std::sync::Arc;
//!
//! use vm_msi::msix::{Bar, Layout, TableSize};
//! use vm_msi::{MsixFunction, Vector};
//! # use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (router, device) = (Arc::new(FakeRouter::new(Failures::default())), FakeBackend::new(Failures::default()));
//! # let backend = device.clone();
//!
//! // `router` is the VM's `kvm::KvmRouter`, and `backend` the device's `vfio::VfioMsix`.
//! let (size, bar) = TableSize::new(64).zip(Bar::new(4)).ok_or("no such table")?;
//! let layout = Layout::new(size, (bar, 0), (bar, 0x800))?;
//! let function = MsixFunction::try_new(layout, router.clone(), backend)?;
//!
//! // Forward the guest's accesses. When a call returns, the host matches the registers.
//! function.write_config(2, &0x8000u16.to_le_bytes()); // MSI-X Enable
//! function.write_table(3 * 16, &0xfee0_0000u64.to_le_bytes()); // entry 3: address
//! function.write_table(3 * 16 + 8, &0x41u64.to_le_bytes()); // data, and the mask bit cleared
//! # device.raise(Vector(3));
//! # assert_eq!(router.take_delivered().len(), 1);
//!
//! // The host has one vector of 64. A masked vector keeps its interrupt, and the guest sees that.
//! assert_eq!(function.report().live, 1);
//! function.write_table(3 * 16 + 12, &1u32.to_le_bytes());
//! # device.raise(Vector(3));
//! assert_eq!(function.pending(0), 1 << 3);
//! # Ok(())
//! # }
//! ```
//!
//! # Which type do I need?
//!
//! | You have | Use |
//! |---|---|
//! | a VM on KVM | one [`kvm::KvmRouter`] |
//! | a passed-through device with MSI-X | [`MsixFunction`] over [`vfio::VfioMsix`] |
//! | a passed-through device with MSI | [`MsiFunction`] over [`vfio::VfioMsi`] |
//! | a device model that raises its own interrupts | [`SoftwareMsix`], and [`InterruptFunction::trigger`] |
//! | a producer with one stable eventfd per vector (vhost-user, vdpa) | [`MsixFunction`] over [`backend::StableEventfds`] |
//! | another producer | [`MsixFunction`] over your [`Backend`] |
//! | an interrupt message store | `ImsFunction`, `QueueFunction`, `SoftwareIms` (feature `ims`) |
//! | a device that several functions share | [`pool::Pool`] and [`pool::LogicalFunction`] |
//! | one eventfd with one message, such as a pin of an I/O APIC | [`line::Line`] |
//! | interrupt remapping | [`remap::Remapped`] and [`remap::Unit`] |
//! | retries, relayed interrupts, deferred host vectors, release delays | one [`Maintenance`] per function |
//! | limits on host vectors | [`VmBudget`] and [`DeviceBudget`] |
//! | another hypervisor | your [`Router`] around a [`publisher::Publisher`] |
//!
//! # Modules, in the order in which to read them
//!
//! | Module | Owns | Never does |
//! |---|---|---|
//! | [`delivery`] | the contract between a store and a domain | hold state |
//! | [`msix`], [`msi`], [`ims`] | the registers that a guest sees | I/O, logging, panics |
//! | [`function`] | one store with its domain, as one type for an embedder | add a rule of its own |
//! | [`domain`] | the state of each vector in the host, and the steps that make it match the store | read registers except through a store |
//! | [`router`], [`kvm`] | routes of messages, irqfds | know vectors or devices |
//! | [`publisher`] | the routing table: messages, GSIs, the embedder's own entries | know the hypervisor |
//! | [`backend`], [`vfio`] | the eventfd that each host vector signals | know messages |
//! | [`budget`] | how many host vectors a device and a VM may have | know which vectors have one |
//! | [`maintenance`], [`events`] | one descriptor and one call for retries, relayed interrupts, deferred host vectors and release delays | run in a guest's access |
//! | [`remap`] | the present translation of a function's messages, if the guest remaps them | call a domain |
//! | [`pool`] | the holder of each host vector of a device that several functions share | choose the holder |
//! | [`state`] | a function's interrupts as data, for snapshots | trust what it reads |
//! | [`line`](mod@line) | one interrupt source of the VMM: one eventfd, one message | know devices |
//! | [`mmio`] | tables, pending bits and slots as devices of a bus | hold state |
//! | [`testing`] | fakes and a reference model | run in a VMM |
//!
//! A guest's write changes registers, and returns the vectors that it [touched](delivery::Touched). The
//! domain compares the [`Delivery`] of each with its state in the host, and performs the steps between them
//! in an order that loses no interrupt. `docs/architecture.md` describes the parts, and `docs/invariants.md`
//! the rules with the function and the test of each.
//!
//! No access of a guest can cause a panic. A guest's mistake gets the value that the PCI specification
//! defines, and is counted. A failure of the host is a typed error. The vector is held, its interrupts wait
//! in its eventfd, and the step is tried again.
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
//! MSI, MSI-X, domains, budgets, remapping, states, `Router` and `Backend` need no feature. The traits have
//! the same methods under every set of features. `Backend::set_cookie` exists without `ims`, because a
//! backend that wraps another one must pass cookies on.
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
mod counter;
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
mod lock;
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
pub mod router;
mod signalled;
pub mod state;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
#[cfg(feature = "vfio")]
pub mod vfio;

pub use backend::Backend;
pub use budget::{DeviceBudget, VmBudget};
pub use delivery::{Delivery, Store, Touched, Vector};
pub use domain::{DeviceDomain, Domain, SoftwareDomain};
#[cfg(feature = "ims")]
pub use function::{ImsFunction, QueueFunction, SoftwareIms, SoftwareQueue};
pub use function::{InterruptFunction, MsiFunction, MsixFunction, SoftwareMsix};
pub use interrupt::{DeviceId, Interrupt, RequesterId, Target};
pub use maintenance::Maintenance;
pub use message::MsiMessage;
pub use registers::{PciCapability, Registers};
pub use router::Router;

/// The supertrait of public traits that only this crate implements.
mod sealed {
    pub trait Sealed {}
}

/// The examples in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The examples in docs/embedding.md compile.
#[cfg(all(doctest, feature = "kvm", feature = "vfio", feature = "bus"))]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
