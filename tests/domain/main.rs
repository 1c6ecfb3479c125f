//! What the crate promises beyond the PCI Express Base Specification: growth, maintenance, fairness, remapping, failures.
//!
//! The function is the real one. The router and the device are fakes with real eventfds. `tests/spec` has the sentences
//! of the specification.

mod batches;
mod bus_master;
mod drivers;
mod fairness;
mod first_signal;
#[path = "../fixture/mod.rs"]
mod fixture;
mod growth;
mod host;
mod hostile;
mod invariants;
mod maintenance;
mod memory;
mod msi;
mod parents;
mod races;
mod remapping;
mod router;
mod self_reset;
mod software;
mod window_hooks;
