//! Suspending functions, taking their state, restoring it: what is in a state, what comes of it, and what is none.
//!
//! With a real kernel the same is in `kvm_msix`, and against the reference model in `model`.

mod carried;
mod foreign;
mod hostile;
mod msi;
mod refused;
mod samples;
mod software;
