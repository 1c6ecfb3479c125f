//! What the root asks of a function on its bus, and how a function is addressed there.

use std::fmt;

use super::windows::BusRange;

/// BARs of a type 0 header (PCIe r6 §7.5.1.2.1).
pub const BAR_COUNT: usize = 6;

/// For each BAR, the range that the registers ask for at the moment: `None` where there is no BAR or decoding is off.
pub type Decoding = [Option<BusRange>; BAR_COUNT];

/// For each BAR, where it is on the bus: `None` where it answers nowhere.
pub type Placement = [Option<Place>; BAR_COUNT];

/// Where a BAR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The addresses that it answers at.
    pub range: BusRange,
    /// Whose the pages are that these lie in.
    pub pages: Pages,
}

/// Whose the pages are that a memory BAR lies in. Only one that is smaller than a page can share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// The BAR begins where a page does, and no other BAR answers in its pages.
    Own,
    /// Another BAR answers there too, or the BAR begins within a page.
    Shared,
}

/// One PCI function. Every method may be called by several vCPUs at once.
pub trait Function: Send + Sync {
    /// Reads configuration space. The access lies within the function's 4 KiB.
    fn config_read(&self, offset: u16, data: &mut [u8]);

    /// Writes configuration space. The root asks for [`decoding`](Self::decoding) afterwards.
    fn config_write(&self, offset: u16, data: &[u8]);

    /// Reads from a BAR, at an offset from its start. The access lies within the BAR.
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]);

    /// Writes to a BAR, at an offset from its start. The access lies within the BAR.
    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]);

    /// What the command register and the BARs ask for now.
    fn decoding(&self) -> Decoding;

    /// Tells where each BAR is from now on. Called under the root's lock, in the order of the changes.
    fn place(&self, placement: &Placement);

    /// Gives back what the function holds of its host; it is not accessed afterwards. May be called twice.
    fn release(&self);

    /// The function's part of the final report, if it has one.
    fn report(&self) -> Option<serde_json::Value>;
}

/// Device and function number on the root bus, as configuration requests carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceFunction(u8);

impl DeviceFunction {
    /// From the eight bits of a requester ID: device number above, three bits of function number below.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The eight bits of a requester ID.
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
