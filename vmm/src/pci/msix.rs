//! The MSI-X capability of a function of the VMM's own: where it is; its registers are the library's.

use std::ops::Range;

use vm_msi::SoftwareMsix;

use super::capability_list::CapabilityList;
use super::overlap::overlap;

const ID: u8 = 0x11;
const BYTES: u8 = 12;
/// Bytes of the capability that are the library's: all but ID and next pointer.
const REGISTERS: Range<u64> = 2..12;

/// A place in configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixCapability {
    at: u16,
}

impl MsixCapability {
    /// Adds the capability to a list.
    pub fn add(list: &mut CapabilityList) -> Self {
        Self { at: list.add(ID, BYTES) }
    }

    /// The part of an access to configuration space that is MSI-X's: where in the buffer, where in the capability.
    fn part(self, offset: u16, len: usize) -> Option<(Range<usize>, u16)> {
        let start = u64::from(self.at);
        let registers = start.saturating_add(REGISTERS.start)..start.saturating_add(REGISTERS.end);
        let (bytes, at) = overlap(offset.into(), len, &registers)?;
        Some((bytes, u16::try_from(at.saturating_add(REGISTERS.start)).ok()?))
    }

    /// Reads MSI-X's part of an access to configuration space; the rest of `data` stays.
    pub fn read(self, msix: &SoftwareMsix, offset: u16, data: &mut [u8]) {
        if let Some((bytes, at)) = self.part(offset, data.len()) {
            msix.read_config(at, data.get_mut(bytes).unwrap_or_default());
        }
    }

    /// Writes MSI-X's part of an access to configuration space.
    pub fn write(self, msix: &SoftwareMsix, offset: u16, data: &[u8]) {
        if let Some((bytes, at)) = self.part(offset, data.len()) {
            msix.write_config(at, data.get(bytes).unwrap_or_default());
        }
    }
}
