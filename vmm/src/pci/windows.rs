//! The address windows of the root bus, and the initial BAR addresses that firmware would assign.
//!
//! A BAR decodes only if its whole range lies in one window. RAM, interrupt controllers and ECAM are outside the
//! windows, so no BAR can shadow them.

use std::ops::{Range, RangeInclusive};

use vm_allocator::{AddressAllocator, AllocPolicy};

/// The granularity of memory slots.
pub const PAGE: u64 = 4096;

/// An address space of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Memory requests, guest-physical addresses.
    Memory,
    /// I/O requests, port numbers.
    Io,
}

/// A non-empty range of bus addresses that does not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusRange {
    space: Space,
    start: u64,
    len: u64,
}

impl BusRange {
    /// `None` if the range is empty or exceeds the address space.
    #[must_use]
    pub fn new(space: Space, start: u64, len: u64) -> Option<Self> {
        let last = start.checked_add(len.checked_sub(1)?)?;
        (last < u64::MAX).then_some(Self { space, start, len })
    }

    /// The address space.
    #[must_use]
    pub fn space(&self) -> Space {
        self.space
    }

    /// The first address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.len
    }

    /// The address after the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// The address windows of the root bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// For 32-bit memory BARs.
    pub mmio32: Range<u64>,
    /// For 64-bit memory BARs, above RAM.
    pub mmio64: Range<u64>,
    /// For I/O BARs.
    pub pio: RangeInclusive<u16>,
}

impl Windows {
    /// Whether the whole range lies in one window.
    #[must_use]
    pub fn contain(&self, range: &BusRange) -> bool {
        let within = |window: &Range<u64>| window.start <= range.start() && range.end() <= window.end;
        match range.space() {
            Space::Memory => within(&self.mmio32) || within(&self.mmio64),
            Space::Io => within(&self.ports()),
        }
    }

    fn ports(&self) -> Range<u64> {
        u64::from(*self.pio.start())..u64::from(*self.pio.end()).saturating_add(1)
    }
}

/// The window of a BAR's initial address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// BarAllocator below 4 GiB.
    Memory32,
    /// Addresses above RAM, or below 4 GiB if those are used up.
    Memory64,
    /// Ports.
    Io,
}

/// The window has no room for a BAR.
#[derive(Debug, thiserror::Error)]
#[error("no room for a BAR of {size:#x} bytes in the {window:?} window of the PCI bus")]
pub struct WindowFull {
    /// The window.
    pub window: Window,
    /// The BAR's size.
    pub size: u64,
}

/// Allocates addresses for BARs.
#[derive(Debug)]
pub struct BarAllocator {
    memory32: Option<AddressAllocator>,
    memory64: Option<AddressAllocator>,
    io: Option<AddressAllocator>,
}

impl BarAllocator {
    /// An allocator with empty windows.
    #[must_use]
    pub fn new(windows: &Windows) -> Self {
        // An empty window has no room.
        let free = |window: &Range<u64>| {
            let size = window.end.saturating_sub(window.start);
            AddressAllocator::new(window.start, size).ok()
        };
        Self { memory32: free(&windows.mmio32), memory64: free(&windows.mmio64), io: free(&windows.ports()) }
    }

    /// An address for `size` bytes, aligned to `size`. Memory is allocated in whole pages, so BARs never share one
    /// initially.
    ///
    /// # Errors
    /// The window has no room.
    pub fn allocate(&mut self, window: Window, size: u64) -> Result<u64, WindowFull> {
        let room = match window {
            Window::Memory32 | Window::Memory64 => size.max(PAGE),
            Window::Io => size,
        };
        let take = |allocator: &mut Option<AddressAllocator>| {
            let range = allocator.as_mut()?.allocate(room, room, AllocPolicy::FirstMatch).ok()?;
            Some(range.start())
        };
        let address = match window {
            Window::Memory32 => take(&mut self.memory32),
            Window::Memory64 => take(&mut self.memory64).or_else(|| take(&mut self.memory32)),
            Window::Io => take(&mut self.io),
        };
        address.ok_or(WindowFull { window, size })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn windows() -> Windows {
        Windows {
            mmio32: 0xc000_0000..0xe000_0000,
            mmio64: 0x40_0000_0000..0x80_0000_0000,
            pio: 0xc000..=0xffff,
        }
    }

    #[test]
    fn only_a_range_within_one_window_is_decoded() {
        let contains = |space, start, len| windows().contain(&BusRange::new(space, start, len).unwrap());
        assert!(contains(Space::Memory, 0xc000_0000, 0x2000_0000));
        assert!(contains(Space::Memory, 0x7f_ffff_f000, 0x1000));
        assert!(contains(Space::Io, 0xffff, 1));
        assert!(!contains(Space::Memory, 0xdfff_f000, 0x2000), "reaches into ECAM");
        assert!(!contains(Space::Memory, 0xbfff_f000, 0x2000), "reaches into RAM");
        assert!(!contains(Space::Memory, 0xc000, 0x10), "memory, not ports");
        assert!(!contains(Space::Io, 0xfff8, 0x10));
        assert!(BusRange::new(Space::Memory, u64::MAX - 3, 8).is_none());
        assert!(BusRange::new(Space::Memory, 0, 0).is_none());
    }

    #[test]
    fn addresses_are_aligned_apart_and_spill_low() {
        let mut addresses = BarAllocator::new(&windows());
        assert_eq!(addresses.allocate(Window::Memory32, 0x10).unwrap(), 0xc000_0000);
        assert_eq!(addresses.allocate(Window::Memory32, 0x10).unwrap(), 0xc000_1000);
        assert_eq!(addresses.allocate(Window::Memory32, 0x10_0000).unwrap(), 0xc010_0000);
        assert_eq!(addresses.allocate(Window::Io, 0x20).unwrap(), 0xc000);
        assert_eq!(addresses.allocate(Window::Io, 4).unwrap(), 0xc020);
        assert_eq!(addresses.allocate(Window::Memory64, 1 << 38).unwrap(), 0x40_0000_0000);
        assert_eq!(addresses.allocate(Window::Memory64, 0x1000).unwrap(), 0xc000_2000, "spilled");
        assert!(addresses.allocate(Window::Memory32, 1 << 32).is_err());
        let none = Windows { mmio64: 0..0, ..windows() };
        assert_eq!(BarAllocator::new(&none).allocate(Window::Memory64, 0x4000).unwrap(), 0xc000_0000);
    }
}
