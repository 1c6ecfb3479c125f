//! A PCIe root complex with one bus: what a guest finds by configuration accesses, and where its BARs lead.
//!
//! [`Root`] owns the bus: which function answers at which device and function number, and which BAR answers at
//! which address. A [`Function`] owns its registers and its BARs' contents, and never looks at the bus. The way of
//! a BAR: the guest programs it, [`Function::decoding`] says what the registers now ask for, the root grants what
//! lies in its windows and collides with nothing, and [`Function::place`] tells the function the result. So a guest
//! that programs nonsense takes away its own device and nothing else.
//!
//! Locks, outermost first: the bus (in [`Root`]), then whatever a function locks. No function calls the root.
//! Accesses of any width and alignment are answered: what nobody decodes reads all ones, and writes to it vanish.
//!
//! Specifications: PCIe r6 §7.2 (configuration accesses), §7.5.1 (type 0 header); PCI 3.0 §3.2.2.3.2 (ports).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod address_map;
pub mod bar;
pub mod bus_adapters;
pub mod capability_list;
pub mod config;
#[cfg(test)]
pub(crate) mod driver;
pub mod express;
pub mod function;
pub mod header;
pub mod host_bridge;
pub mod msix;
mod overlap;
pub mod root;
pub mod windows;

pub use bar::{Bar, Bars};
pub use capability_list::CapabilityList;
pub use config::{ConfigSpace, Register};
pub use express::ExpressCapability;
pub use function::{BAR_COUNT, Decoding, DeviceFunction, Function, Pages, Place, Placement};
pub use header::{COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, Header};
pub use msix::MsixCapability;
pub use overlap::overlap;
pub use root::Root;
pub use windows::{BusRange, Space, WindowFull, Windows};

#[cfg(test)]
mod tests;
