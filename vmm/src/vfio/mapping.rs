//! The mapping of a BAR into the guest: KVM memory slots that follow the BAR's address.
//!
//! The host's mmap is created once. A slot per part exists while the BAR has an address. If KVM refuses a slot,
//! accesses to the part exit. The refusal is logged once for each BAR, because the guest may move a BAR at any rate.
//! The lock serialises changes of the address. Other devices' DMA follows ([`peers`](super::peers)).

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{GuestAddress, MmapRegion};

use super::mmap_ranges::mappable;
use super::peers::{PeerBar, PeerSpace};
use super::region::Region;
use crate::memory::{Access, FileMapping, HostMemory, Slot, Slots};
use crate::pci::{BarAddress, Pages};

/// The mapped parts of a BAR.
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
    memory: HostMemory,
    /// Offset of the first byte in the memory.
    offset: usize,
    access: Access,
}

impl Part {
    /// The bytes of the memory.
    fn in_memory(&self) -> Range<usize> {
        let size = usize::try_from(self.bytes.end.saturating_sub(self.bytes.start)).unwrap_or(0);
        self.offset..self.offset.saturating_add(size)
    }
}

#[derive(Debug, Default)]
struct Installed {
    at: Option<u64>,
    slots: Vec<Slot>,
    refusal_logged: bool,
    /// The BAR in the IOMMU address space of other devices, if they reach it.
    peers: Option<PeerBar>,
}

impl BarMapping {
    /// Maps a BAR's region, except the pages with `trapped` bytes. The host maps each of its areas as a whole. Other
    /// devices reach the BAR in `peers`, if there is such a space.
    ///
    /// # Errors
    /// The host's error if it refuses the mmap.
    pub fn new(
        region: &Region,
        trapped: &[Range<u64>],
        slots: &Arc<Slots>,
        peers: Option<Arc<dyn PeerSpace>>,
    ) -> io::Result<Self> {
        let mut parts = Vec::new();
        let mut peers = peers.map(PeerBar::new);
        for area in region.mappable_areas() {
            let seen = mappable(std::slice::from_ref(area), trapped);
            if seen.is_empty() {
                continue;
            }
            let outside = || io::Error::from(io::ErrorKind::InvalidInput);
            let at = region.file_offset().checked_add(area.start).ok_or_else(outside)?;
            let size = usize::try_from(area.end.saturating_sub(area.start)).map_err(io::Error::other)?;
            let memory = Arc::new(FileMapping::new(region.device(), at, size)?);
            for bytes in seen {
                let offset =
                    usize::try_from(bytes.start.saturating_sub(area.start)).map_err(io::Error::other)?;
                let start = bytes.start;
                let part =
                    Part { bytes, memory: Arc::clone(&memory).into(), offset, access: Access::ReadWrite };
                if let Some(peers) = &mut peers {
                    peers.add(start, Arc::clone(&memory), part.in_memory());
                }
                parts.push(part);
            }
        }
        let installed = Mutex::new(Installed { peers, ..Installed::default() });
        Ok(Self { slots: Arc::clone(slots), parts, installed })
    }

    /// A mapping of the VMM's own memory, which the guest reads.
    pub fn read_only(memory: &Arc<MmapRegion>, slots: &Arc<Slots>) -> Self {
        let mut mapping = Self { slots: Arc::clone(slots), parts: Vec::new(), installed: Mutex::default() };
        mapping.add_read_only(0..memory.size() as u64, Arc::clone(memory));
        mapping
    }

    /// Makes the guest read these trapped pages from `memory`.
    pub fn add_read_only(&mut self, bytes: Range<u64>, memory: Arc<MmapRegion>) {
        self.parts.push(Part { bytes, memory: memory.into(), offset: 0, access: Access::ReadOnly });
    }

    /// Moves the BAR, or removes it from the address map.
    pub fn set_address(&self, place: Option<BarAddress>) {
        let at = place.and_then(mappable_at);
        let mut installed = self.installed.lock().unwrap_or_else(PoisonError::into_inner);
        if installed.at == at {
            return;
        }
        installed.at = at;
        installed.slots.clear();
        if let Some(peers) = &mut installed.peers {
            peers.set_address(at);
        }
        let Some(at) = at else {
            return;
        };
        for part in &self.parts {
            let guest = GuestAddress(at.saturating_add(part.bytes.start));
            match self.slots.map(guest, part.memory.clone(), part.in_memory(), part.access) {
                Ok(slot) => installed.slots.push(slot),
                Err(error) => {
                    if !std::mem::replace(&mut installed.refusal_logged, true) {
                        tracing::warn!("accesses to a device's BAR exit, which is slow: {error}");
                    }
                }
            }
        }
    }

    /// The number of bytes with this access that the guest reaches without an exit while the BAR has an address.
    #[must_use]
    pub fn bytes(&self, access: Access) -> u64 {
        let parts = self.parts.iter().filter(|part| part.access == access);
        parts.fold(0, |bytes, part| bytes.saturating_add(part.bytes.end.saturating_sub(part.bytes.start)))
    }
}

/// The address for the BAR's slots. KVM maps whole pages, so a BAR that shares a page is trapped.
fn mappable_at(place: BarAddress) -> Option<u64> {
    match place.pages {
        Pages::Exclusive => Some(place.range.start()),
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
            mappable_at(BarAddress {
                range: BusRange::new(Space::Memory, 0xc000_0000, 0x100).unwrap(),
                pages,
            })
        };
        assert_eq!((at(Pages::Exclusive), at(Pages::Shared)), (Some(0xc000_0000), None));
    }
}
