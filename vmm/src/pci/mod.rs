//! A PCIe root complex with one bus: configuration accesses and BAR decoding.
//!
//! [`Root`] owns the bus: the function at each device and function number, and the BAR at each address. A
//! [`Function`] owns its registers and the contents of its BARs, and never accesses the bus. The guest programs a
//! BAR, and [`Function::decoding`] returns the resulting ranges. The root grants a range that lies in a window and
//! overlaps no other, and passes the result to [`Function::update_bars`]. A guest that programs an invalid address disables
//! its own device only.
//!
//! Locks, outermost first: the bus (in [`Root`]), then the function's own. No function calls the root. Accesses of
//! any width and alignment are valid: an address without a BAR reads all ones and drops writes.
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
pub mod interrupt_pin;
pub mod msix;
mod overlap;
pub mod root;
pub mod windows;

pub use bar::{Bar, Bars};
pub use capability_list::CapabilityList;
pub use config::{ConfigSpace, Register};
pub use express::ExpressCapability;
pub use function::{
    BAR_COUNT, BarAddress, BarAddresses, DECODER_COUNT, Decoding, DeviceFunction, Function, Pages, ROM_INDEX,
};
pub use header::{COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, Header};
pub use interrupt_pin::InterruptPin;
pub use msix::MsixCapability;
pub use overlap::overlap;
pub use root::Root;
pub use windows::{BusRange, Space, WindowFull, Windows};

#[cfg(test)]
mod tests;
