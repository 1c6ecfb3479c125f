//! The MSI-X capability of an emulated function. The vm-msi crate emulates its registers.

use std::ops::Range;

use vm_msi::msix::Msix;
use vm_msi::{Domain, InterruptFunction};

use super::capability_list::CapabilityList;
use super::overlap::overlap;

const ID: u8 = 0x11;
const BYTES: u8 = 12;
/// Bytes of the capability that vm-msi emulates: all but ID and next pointer.
const REGISTERS: Range<u64> = 2..12;

/// The capability's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixCapability {
    at: u16,
}

impl MsixCapability {
    /// Adds the capability to a list.
    pub fn add(list: &mut CapabilityList) -> Self {
        Self { at: list.add(ID, BYTES) }
    }

    /// The part of a configuration access that falls on MSI-X: range in the buffer, offset in the capability.
    fn part(self, offset: u16, len: usize) -> Option<(Range<usize>, u16)> {
        let start = u64::from(self.at);
        let registers = start.saturating_add(REGISTERS.start)..start.saturating_add(REGISTERS.end);
        let (bytes, at) = overlap(offset.into(), len, &registers)?;
        Some((bytes, u16::try_from(at.saturating_add(REGISTERS.start)).ok()?))
    }

    /// Reads MSI-X's part of a configuration access. The rest of `data` is unchanged.
    pub fn read<D: Domain>(self, msix: &InterruptFunction<Msix, D>, offset: u16, data: &mut [u8]) {
        if let Some((bytes, at)) = self.part(offset, data.len()) {
            msix.read_config(at, data.get_mut(bytes).unwrap_or_default());
        }
    }

    /// Writes MSI-X's part of a configuration access.
    pub fn write<D: Domain>(self, msix: &InterruptFunction<Msix, D>, offset: u16, data: &[u8]) {
        if let Some((bytes, at)) = self.part(offset, data.len()) {
            msix.write_config(at, data.get(bytes).unwrap_or_default());
        }
    }
}
