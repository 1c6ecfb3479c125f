//! The devices that tests pass through.

use std::io::Write;

/// A device that tests pass through, by its number in a lab host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Passed {
    /// An NVMe disk with 2048 vectors.
    Disk = 0,
    /// A doorbell with 64 vectors.
    Doorbell = 1,
    /// A doorbell with 2048 vectors.
    Wide = 2,
    /// An e1000e, for the control.
    Control = 3,
    /// An Ethernet controller whose vectors a guest can ring, and that has a function-level reset.
    Card = 4,
    /// A SATA controller with one MSI message and no MSI-X, and a disk.
    Sata = 5,
    /// A USB controller with 16 MSI messages and no MSI-X, and a tablet.
    Usb = 6,
    /// An rtl8139, which has INTx only, on one link with [`Passed::Intel`].
    Realtek = 7,
    /// An e1000, which has INTx only.
    Intel = 8,
}

impl Passed {
    pub(crate) const ALL: [Self; 9] = [
        Self::Disk,
        Self::Doorbell,
        Self::Wide,
        Self::Control,
        Self::Card,
        Self::Sata,
        Self::Usb,
        Self::Realtek,
        Self::Intel,
    ];
}

/// The address of each device that a host has, in the order of [`Passed`].
pub(crate) type Addresses = [Option<String>; Passed::ALL.len()];

/// Prints a line that is shown also when the test passes.
pub(crate) fn say(what: &str) {
    // There is nobody to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "    {what}");
}
