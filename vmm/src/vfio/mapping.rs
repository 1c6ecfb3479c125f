//! A BAR's pages in the guest: the parts that need no exit, as KVM memory slots that come and go with the BAR.
//!
//! The host's mapping is made once; a slot per part exists while the BAR has a place. A part that KVM refuses (no slot
//! left) is reached through the bus instead, more slowly, which is said. The lock orders changes of place alone.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::{FileOffset, GuestAddress, MmapRegion};

use super::cutout::mappable;
use super::region::Region;
use crate::memory::{Slot, Slots};
use crate::pci::{Pages, Place};

/// One BAR's mapped parts.
#[derive(Debug)]
pub struct BarMapping {
    slots: Arc<Slots>,
    parts: Vec<(Range<u64>, Arc<MmapRegion>)>,
    placed: Mutex<Placed>,
}

#[derive(Debug, Default)]
struct Placed {
    at: Option<u64>,
    slots: Vec<Slot>,
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
            Ok((part, Arc::new(mapping)))
        };
        let parts = parts.into_iter().map(map).collect::<io::Result<_>>()?;
        Ok(Self { slots: Arc::clone(slots), parts, placed: Mutex::default() })
    }

    /// Moves the BAR to another place, or away.
    pub fn place(&self, place: Option<Place>) {
        // KVM shares whole pages. A BAR that is not alone in its page is trapped.
        let own = place.filter(|place| place.pages == Pages::Own);
        let at = own.map(|place| place.range.start());
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if placed.at == at {
            return;
        }
        placed.at = at;
        placed.slots.clear();
        let Some(at) = at else {
            return;
        };
        for (part, mapping) in &self.parts {
            let guest = at.saturating_add(part.start);
            match self.slots.map(GuestAddress(guest), Arc::clone(mapping), 0..mapping.size()) {
                Ok(slot) => placed.slots.push(slot),
                Err(error) => tracing::warn!("a device's BAR is reached by exits, which is slow: {error}"),
            }
        }
    }

    /// Bytes that the guest reaches without an exit, where the BAR has a place.
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        self.parts
            .iter()
            .fold(0, |bytes, (part, _)| bytes.saturating_add(part.end.saturating_sub(part.start)))
    }
}
