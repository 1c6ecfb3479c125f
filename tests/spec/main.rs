//! One test for each sentence of the PCI Express Base Specification (r6) about MSI and MSI-X that binds a function.
//!
//! Each test's doc comment names the section and says what it requires. The function is the real one. The router and the device
//! are fakes with real eventfds. What the crate promises beyond the specification is in `tests/domain`.

mod bus_master;
mod capability;
#[path = "../fixture/mod.rs"]
mod fixture;
mod masking;
mod memory;
mod msi;
mod pba;
mod registers;
mod table;
