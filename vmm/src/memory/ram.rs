//! Guest RAM: one region below the hole, and a second one above 4 GiB if necessary.

use std::ops::Range;
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use super::mmap;
use super::slots::{Access, Slot, Slots};
use crate::error::{Context, Error, Result};
use crate::layout;

/// The guest's RAM and its memory slots.
#[derive(Debug)]
pub struct GuestMemory {
    memory: GuestMemoryMmap,
    /// Keeps the RAM mapped into the guest.
    _slots: Vec<Slot>,
}

impl GuestMemory {
    /// Allocates `size` bytes of RAM and maps them into the guest.
    ///
    /// # Errors
    /// [`Error::Host`] if the host refuses the memory or a slot.
    pub fn new(size: u64, slots: &Arc<Slots>) -> Result<Self> {
        let regions = layout::ram(size).into_iter().map(region).collect::<Result<Vec<_>>>()?;
        let mapped = regions.iter().map(|region| {
            let ram = region.get_mmap();
            let size = ram.size();
            slots.map(region.start_addr(), ram, 0..size, Access::ReadWrite)
        });
        let slots = mapped.collect::<Result<Vec<_>>>()?;
        let memory = GuestMemoryMmap::from_regions(regions).context("laying out guest memory")?;
        Ok(Self { memory, _slots: slots })
    }

    /// The RAM.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The first guest-physical address above all RAM.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.memory.iter().map(|region| region.start_addr().0.saturating_add(region.len())).max().unwrap_or(0)
    }
}

fn region(range: Range<u64>) -> Result<GuestRegionMmap> {
    let context = || format!("mapping {} MiB of guest memory", (range.end - range.start) / layout::MIB);
    let size = usize::try_from(range.end - range.start).context(context())?;
    let mapping = mmap::map_anonymous(size).context(context())?;
    GuestRegionMmap::new(mapping, GuestAddress(range.start))
        .ok_or_else(|| Error::host(context(), "the range wraps around"))
}
