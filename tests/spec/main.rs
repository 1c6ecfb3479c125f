//! One test for each sentence of the PCI Express Base Specification (r6) about MSI and MSI-X that binds a function.
//!
//! Each test names its section. The function is the real one; the guest's interrupt controllers and the device
//! are fakes that hold real eventfds.

mod bus_master;
mod capability;
mod drivers;
mod fairness;
mod first_signal;
mod fixture;
mod growth;
mod hostile;
mod maintenance;
mod masking;
mod memory;
mod msi;
mod msi_and_msix;
mod parents;
mod pba;
mod promises;
mod races;
mod remapping;
mod self_reset;
mod software;
mod table;
mod window_hooks;
