//! The interface between the root and a function, and the function's address on the bus.

use std::fmt;

use super::windows::BusRange;

/// BARs of a type 0 header (PCIe r6 §7.5.1.2.1).
pub const BAR_COUNT: usize = 6;

/// Index of the expansion ROM, after the BARs, as in VFIO.
pub const ROM_INDEX: usize = BAR_COUNT;

/// The BARs and the expansion ROM.
pub const DECODER_COUNT: usize = BAR_COUNT.saturating_add(1);

/// For each BAR and the expansion ROM, the range that its registers decode now. `None` if there is none or decoding is
/// off.
pub type Decoding = [Option<BusRange>; DECODER_COUNT];

/// For each BAR and the expansion ROM, its address on the bus. `None` if the root has not granted one.
pub type BarAddresses = [Option<BarAddress>; DECODER_COUNT];

/// The address of a BAR on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarAddress {
    /// The addresses.
    pub range: BusRange,
    /// Whether other BARs share its pages.
    pub pages: Pages,
}

/// Whether a memory BAR is alone in its pages. Only a BAR smaller than a page can share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// The BAR starts at a page boundary, and no other BAR is in its pages.
    Exclusive,
    /// Another BAR is in these pages, or the BAR starts inside a page.
    Shared,
}

/// A PCI function. Several vCPUs may call any method at once.
pub trait Function: Send + Sync {
    /// Reads configuration space. The access lies within the function's 4 KiB.
    fn config_read(&self, offset: u16, data: &mut [u8]);

    /// Writes configuration space. The root asks for [`decoding`](Self::decoding) afterwards.
    fn config_write(&self, offset: u16, data: &[u8]);

    /// Reads from a BAR, or from the expansion ROM ([`ROM_INDEX`]), at an offset from its start. The access lies within
    /// it.
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]);

    /// Writes to a BAR or the expansion ROM, at an offset from its start. The access lies within it.
    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]);

    /// The ranges that the command register and the BARs decode now.
    fn decoding(&self) -> Decoding;

    /// Sets the addresses of the BARs and the expansion ROM. Called under the root's lock, in the order of the changes.
    fn update_bars(&self, addresses: &BarAddresses);

    /// Releases the function's host resources. The function is not accessed afterwards. May be called twice.
    fn release(&self);

    /// The function's part of the report, if any.
    fn report(&self) -> Option<serde_json::Value>;
}

/// Device and function number on the root bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceFunction(u8);

impl DeviceFunction {
    /// From the low eight bits of a requester ID: device number in bits 7:3, function number in bits 2:0.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The low eight bits of the requester ID.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.0 >> 3
    }

    /// The function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0 & 7
    }
}

impl fmt::Display for DeviceFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00:{:02x}.{}", self.device(), self.function())
    }
}
