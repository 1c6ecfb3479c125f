//! The guest's first serial port, COM1: a 16550 whose line is the terminal, a file, or nowhere.
//!
//! [`Port`] is the device on the bus, over vm-superio's model of the registers. `output` is where its bytes
//! go, line by line or after a moment ([`Flusher`]), [`input`] brings bytes from standard input on the event
//! loop, [`terminal`] puts the terminal in raw mode for as long as the guest has it. One lock, around the
//! registers; output is written under it, so that bytes stay in order.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod flush_timer;
pub mod input;
mod output;
mod port;
pub mod terminal;

pub use port::{Flusher, Port};
