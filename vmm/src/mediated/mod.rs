//! Mediated devices: one host device, shared by several functions of the guest. Each function has an interrupt
//! message store, and the device's MSI-X vectors fire its slots. The guest sees neither the device's registers nor
//! its MSI-X.
//!
//! | part | owns |
//! |---|---|
//! | [`physical`] | the device: its host vectors as a pool, its bus mastering, its reset |
//! | [`doorbell`] | the interface to ring a queue of the device |
//! | [`ivshmem`] | QEMU's `ivshmem-doorbell` |
//! | [`slots`] | the slots of one function, and the mediation of the guest's rings |
//! | [`open`] | opening of host devices |
//!
//! A slot gets a host vector when the guest first unmasks it, and keeps it until some time after the guest frees the
//! slot. The device is in an IOMMU domain without mappings: it can do nothing but interrupt. It is reset when it is
//! opened and when it is closed. The guest cannot reset it, because other functions share it.
//!
//! Locks, outermost first: the IMS device's (see [`crate::ims`]), the vm-msi crate's, the physical device's. A slot
//! keeps its host vector while the IMS device's lock is held.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod doorbell;
pub mod ivshmem;
pub mod open;
pub mod physical;
pub mod slots;

pub use doorbell::Doorbell;
pub use open::Opener;
pub use physical::PhysicalDevice;
pub use slots::MediatedSlots;
