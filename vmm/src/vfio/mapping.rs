//! A BAR's pages in the guest: the parts that need no exit, as KVM memory slots that come and go with the BAR.
//!
//! The host's mapping is made once; a slot per part exists while the BAR has a place. A part that KVM refuses (no slot
//! left) is reached through the bus instead, more slowly, which is said once for a BAR: the guest may move it as often as
//! it likes. The lock orders changes of place alone.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::{FileOffset, GuestAddress, MmapRegion};

use super::mmap_ranges::mappable;
use super::region::Region;
use crate::memory::{Access, Slot, Slots};
use crate::pci::{Pages, Place};

/// One BAR's mapped parts.
#[derive(Debug)]
pub struct BarMapping {
    slots: Arc<Slots>,
    parts: Vec<Part>,
    installed: Mutex<Installed>,
}

#[derive(Debug)]
struct Part {
    /// Bytes of the BAR.
    bytes: Range<u64>,
    memory: Arc<MmapRegion>,
    access: Access,
}

#[derive(Debug, Default)]
struct Installed {
    at: Option<u64>,
    slots: Vec<Slot>,
    refusal_logged: bool,
}

impl BarMapping {
    /// Maps all of a BAR's region that the host lets be mapped, but for the pages that have `trapped` bytes in them.
    ///
    /// # Errors
    /// The host's, when it refuses a mapping that it offered.
    pub fn new(region: &Region, trapped: &[Range<u64>], slots: &Arc<Slots>) -> io::Result<Self> {
        let parts = mappable(region.mappable_areas(), trapped);
        let map = |part: Range<u64>| {
            let outside = || io::Error::from(io::ErrorKind::InvalidInput);
            let at = region.file_offset().checked_add(part.start).ok_or_else(outside)?;
            let size = usize::try_from(part.end.saturating_sub(part.start)).map_err(io::Error::other)?;
            let file = FileOffset::from_arc(Arc::clone(region.device()), at);
            let protection = (ProtFlags::READ | ProtFlags::WRITE).bits().cast_signed();
            let flags = MapFlags::SHARED.bits().cast_signed();
            let mapping = MmapRegion::build(Some(file), size, protection, flags).map_err(io::Error::other)?;
            Ok(Part { bytes: part, memory: Arc::new(mapping), access: Access::ReadWrite })
        };
        let parts = parts.into_iter().map(map).collect::<io::Result<_>>()?;
        Ok(Self { slots: Arc::clone(slots), parts, installed: Mutex::default() })
    }

    /// Has the guest read these bytes, whole pages that are trapped otherwise, from this memory.
    pub fn add_read_only(&mut self, bytes: Range<u64>, memory: Arc<MmapRegion>) {
        self.parts.push(Part { bytes, memory, access: Access::ReadOnly });
    }

    /// Moves the BAR to another place, or away.
    pub fn place(&self, place: Option<Place>) {
        let at = place.and_then(mappable_at);
        let mut installed = self.installed.lock().unwrap_or_else(PoisonError::into_inner);
        if installed.at == at {
            return;
        }
        installed.at = at;
        installed.slots.clear();
        let Some(at) = at else {
            return;
        };
        for Part { bytes, memory, access } in &self.parts {
            let guest = GuestAddress(at.saturating_add(bytes.start));
            match self.slots.map(guest, Arc::clone(memory), 0..memory.size(), *access) {
                Ok(slot) => installed.slots.push(slot),
                Err(error) => {
                    if !std::mem::replace(&mut installed.refusal_logged, true) {
                        tracing::warn!("a device's BAR is reached by exits, which is slow: {error}");
                    }
                }
            }
        }
    }

    /// Bytes that the guest may access so without an exit, where the BAR has a place.
    #[must_use]
    pub fn bytes(&self, access: Access) -> u64 {
        let parts = self.parts.iter().filter(|part| part.access == access);
        parts.fold(0, |bytes, part| bytes.saturating_add(part.bytes.end.saturating_sub(part.bytes.start)))
    }
}

/// Where a BAR's pages can be in the guest. KVM shares whole pages: a BAR that is not alone in its own is trapped.
fn mappable_at(place: Place) -> Option<u64> {
    match place.pages {
        Pages::Own => Some(place.range.start()),
        Pages::Shared => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::{BusRange, Space};

    #[test]
    fn a_bar_that_shares_its_page_is_trapped() {
        let at = |pages| {
            mappable_at(Place { range: BusRange::new(Space::Memory, 0xc000_0000, 0x100).unwrap(), pages })
        };
        assert_eq!((at(Pages::Own), at(Pages::Shared)), (Some(0xc000_0000), None));
    }
}
