//! Who sends a message: a PCI function, as it signs what it sends (PCIe r6 §2.2.6.2).
//!
//! A plain value. A remapping unit looks at it to tell one function's messages from another's.

use std::fmt;

/// A requester ID: bus (bits 15:8), device (7:3) and function (2:0) of the function that sends.
///
/// ```
/// use vm_msi::RequesterId;
///
/// assert_eq!(RequesterId(0x0a1b).to_string(), "0a:03.3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct RequesterId(pub u16);

impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.0 >> 8, self.0 >> 3 & 0x1f, self.0 & 7)
    }
}
