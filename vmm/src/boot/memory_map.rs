//! The memory map that a kernel gets: the RAM, and what firmware reserves. Linux' zero page and PVH's start info both list it.

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::layout;

/// Address range types (ACPI 15), which the boot protocol and PVH share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemoryKind {
    Ram = 1,
    Reserved = 2,
    Acpi = 3,
}

/// A range of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryRange {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) kind: MemoryKind,
}

/// The memory map, sorted by address: RAM without the legacy area below 1 MiB, the ACPI tables, and ECAM. Linux uses ECAM only if it is
/// reserved.
pub(super) fn memory_map(memory: &GuestMemoryMmap) -> Vec<MemoryRange> {
    let entry = |start: u64, end: u64, kind| MemoryRange { start, size: end.saturating_sub(start), kind };
    let mut map = vec![
        entry(0, layout::CONVENTIONAL_END, MemoryKind::Ram),
        entry(layout::ACPI_TABLES.start, layout::ACPI_TABLES.end, MemoryKind::Acpi),
        entry(layout::FIRMWARE.start, layout::FIRMWARE.end, MemoryKind::Reserved),
    ];
    map.extend(memory.iter().map(|region| {
        let GuestAddress(start) = region.start_addr();
        entry(start.max(layout::HIGH_RAM), start.saturating_add(region.len()), MemoryKind::Ram)
    }));
    map.push(entry(layout::PCI_ECAM.start, layout::PCI_ECAM.end, MemoryKind::Reserved));
    map.sort_by_key(|entry| entry.start);
    map
}
