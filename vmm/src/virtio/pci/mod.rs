//! Virtio over PCI, the modern interface (virtio 1.2 §4.1): one function, one BAR.
//!
//! [`layout`] says where the structures are in the BAR, [`capabilities`] tells the driver, [`common`] is the common
//! configuration, [`doorbell`] the notifications, [`function`] puts them on the bus.

pub mod capabilities;
pub mod common;
pub mod doorbell;
pub mod function;
pub mod layout;

pub use doorbell::Doorbells;
pub use function::PciFunction;
