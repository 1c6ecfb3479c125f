//! Interrupt message stores: what a guest, a device and a host see of an array of slots, of slots in guest memory,
//! and of a store that nobody has thought of yet.
//!
//! The function and its domain are the real ones; the guest's interrupt controllers and the device are fakes that
//! hold real eventfds.

mod beside;
mod cookies;
mod fixture;
mod mediated;
mod odd;
mod queue;
mod slots;
mod software;
mod state;
