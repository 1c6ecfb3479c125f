//! Interrupt message stores: what a guest, a device and a host see of an array of slots, of slots in guest memory, and of a store that
//! is defined outside the crate.
//!
//! The function and its domain are the real ones. The router and the device are fakes with real eventfds.

mod beside;
mod cookies;
mod fixture;
mod mediated;
mod odd;
mod queue;
mod slots;
mod software;
mod state;
