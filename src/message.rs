//! The message of a message-signalled interrupt: the memory write that a function makes (PCIe r6 §6.1.4).
//!
//! Plain values as a guest wrote them. An APIC ([`crate::apic`]), or a remapping unit in front of it, decides
//! whether a message is an interrupt.

use std::fmt;

/// An address and the data written there; any value is representable, none is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsiMessage {
    /// Where the function writes: 64 bits, the lowest two of them 0 (PCIe r6 §7.7.1.3, §7.7.2.5).
    pub address: u64,
    /// What it writes: one DWORD.
    pub data: u32,
}

impl MsiMessage {
    /// The message of an entry that was never written, or that its driver has cleared.
    pub const BLANK: Self = Self { address: 0, data: 0 };

    /// Joins the registers of a table entry.
    pub fn from_registers(address_low: u32, address_high: u32, data: u32) -> Self {
        Self { address: u64::from(address_high) << 32 | u64::from(address_low), data }
    }

    /// The low half of the address.
    pub fn address_low(self) -> u32 {
        self.address as u32
    }

    /// The high half of the address.
    pub fn address_high(self) -> u32 {
        (self.address >> 32) as u32
    }
}

impl fmt::Display for MsiMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}<-{:#x}", self.address, self.data)
    }
}
