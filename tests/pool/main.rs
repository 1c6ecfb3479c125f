//! Several functions and sub-devices of one device. None receives an interrupt of another, none loses one, and each releases its host
//! vectors, in any order of requests, releases, failures and interrupts.

mod ending;
mod max_relayed;
mod random;
mod threads;
mod world;

use vm_msi::MsixFunction;
use vm_msi::msix::{Bar, Layout, TableSize};

/// A guest's MSI-X on a part of a device.
type Function = MsixFunction;

/// A table of `vectors` vectors.
fn layout(vectors: u16) -> Layout {
    let bar = Bar::new(0).unwrap();
    Layout::new(TableSize::new(vectors).unwrap(), (bar, 0), (bar, 0x8000)).unwrap()
}
