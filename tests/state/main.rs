//! Suspending functions, and saving and restoring their state: what a state has, what a restored function does, and which data is
//! refused.
//!
//! `kvm_msix` tests the same on a real kernel, and `model` against the reference model.

mod carried;
mod foreign;
mod hostile;
mod msi;
mod refused;
mod samples;
mod software;
