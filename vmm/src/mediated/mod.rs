//! A device of the host's in parts: the guest has functions with an interrupt message store of their own, whose slots fire
//! from the device's MSI-X vectors. It sees neither the device's registers nor its MSI-X.
//!
//! | part | owns |
//! |---|---|
//! | [`physical`] | the device: its host vectors as a pool, whether it may signal, its reset |
//! | [`doorbell`] | what is one device's own: how a queue of it is made to signal a host vector |
//! | [`ivshmem`] | QEMU's `ivshmem-doorbell` |
//! | [`slots`] | the slots of one function, and the mediator between a guest's rings and the device |
//! | [`open`] | from a device of the host's to all this |
//!
//! A slot has a host vector of the device's from when the guest first unmasks it until some time after it has freed it,
//! and another one the next time. The device is in an IOMMU domain of its own in which nothing is mapped: what it may do by
//! itself is to signal. It is reset when it is opened and when it is given back, and never by the guest, as other functions
//! are of the same device.
//!
//! Locks, outermost first: the IMS device's (see [`crate::ims`]), the library's, the physical device's. Under the first a
//! slot keeps its host vector between the look at it and the ring.
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
