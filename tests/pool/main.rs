//! One device, several functions and sub-devices: nobody ever gets another's interrupt, nothing is lost, and
//! everything is given back, whatever comes, goes, fails and fires.

mod ending;
mod max_relayed;
mod random;
mod threads;
mod world;

use vm_msi::MsixFunction;
use vm_msi::msix::{Bar, Layout, TableSize};

/// A guest's MSI-X on a part of a device.
type Function = MsixFunction;

/// A table of so many vectors.
fn layout(vectors: u16) -> Layout {
    let bar = Bar::new(0).unwrap();
    Layout::new(TableSize::new(vectors).unwrap(), (bar, 0), (bar, 0x8000)).unwrap()
}
