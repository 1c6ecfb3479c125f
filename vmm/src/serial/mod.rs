//! The guest's first serial port, COM1: a 16550 whose line is the terminal, a file, or nowhere.
//!
//! [`Port`] is the device on the bus, over vm-superio's registers. `output` buffers and writes its bytes: at each
//! newline, or when `flush_timer` expires ([`Flusher`]). `escape` is the way out of a terminal.
//! [`input`] forwards standard input on the event loop.
//! [`terminal`] puts the terminal in raw mode while the guest runs.
//!
//! Locks, outermost first: the registers, the flush timer. Output is written under the registers' lock, which keeps
//! the bytes in order.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub(crate) mod escape;
mod flush_timer;
pub mod input;
mod output;
mod port;
pub mod terminal;

pub use port::{Flusher, Port};
