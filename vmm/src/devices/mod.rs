//! Platform devices: the IOAPIC, the registers for power-off and reset, pvpanic, and the debug-exit port. PCI devices and the
//! serial port have modules of their own.
//!
//! No guest access can panic here. The IOAPIC locks its registers. The others have no state but the shared
//! [`ExitEvent`](crate::outcome::ExitEvent).

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod debug_exit;
pub mod ioapic;
pub mod power;
pub mod pvpanic;
