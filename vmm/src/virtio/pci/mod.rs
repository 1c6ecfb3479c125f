//! Virtio over PCI, the modern interface (virtio 1.2 §4.1): one function with one BAR.
//!
//! [`layout`] places the structures in the BAR, and [`capabilities`] advertises them. [`common`] is the common
//! configuration, [`doorbell`] the notifications, and [`function`] the function on the bus. The only locks are those
//! of [`function`] and of [`doorbell`].

pub mod capabilities;
pub mod common;
pub mod doorbell;
pub mod function;
pub mod layout;

pub use doorbell::Doorbells;
pub use function::PciFunction;
