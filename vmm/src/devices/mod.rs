//! The few devices of the machine that are not on the PCI bus and not the serial port.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod ioapic;
pub mod power;
