//! Base address registers of a type 0 header, and that of the expansion ROM: sizing, moving, decoding (PCIe r6 §7.5.1.2.1,
//! §7.5.1.2.4).
//!
//! A BAR is a row of the register table whose writable bits are those above its size. This is all of BAR sizing. The
//! decoded ranges are a pure function of the BARs and the command register.

use super::config::{ConfigSpace, Register};
use super::function::{BAR_COUNT, DECODER_COUNT, Decoding};
use super::windows::{BarAllocator, BusRange, Space, Window, WindowFull};

/// Offset of the first BAR.
pub const BAR0: u16 = 0x10;
/// Offset of the expansion ROM's base address register.
pub const ROM_BAR: u16 = 0x30;
/// Offset of the command register.
pub const COMMAND: u16 = 0x04;
/// Command: the function answers I/O requests (PCIe r6 §7.5.1.1.3).
pub const COMMAND_IO: u32 = 1 << 0;
/// Command: the function answers memory requests.
pub const COMMAND_MEMORY: u32 = 1 << 1;

/// Maximum size of an expansion ROM (PCI 3.0 §6.2.5.2).
pub const LARGEST_ROM: u64 = 16 << 20;

/// Expansion ROM Enable.
const ROM_ENABLE: u32 = 1 << 0;
/// The address has bits 31:11, so the smallest ROM has 2 KiB.
const SMALLEST_ROM: u64 = 1 << 11;
const IO_SPACE: u32 = 1 << 0;
const TYPE_MASK: u32 = 0b110;
const TYPE_64BIT: u32 = 0b100;

/// One base address register, or the lower half of a 64-bit one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    flags: u32,
    size: u64,
}

impl Bar {
    /// From the register's value on the host and the size of its region. `None` if the region is empty or too large
    /// for the register. A size that is no power of two is rounded up.
    #[must_use]
    pub fn new(register: u32, size: u64) -> Option<Self> {
        let io = register & IO_SPACE != 0;
        let (flags, smallest) = if io { (register & 0b11, 4) } else { (register & 0b1111, 16) };
        let bar = Self { flags, size: size.checked_next_power_of_two()?.max(smallest) };
        let largest = if bar.is_64bit() { 1 << 63 } else { 1 << 31 };
        (size > 0 && bar.size <= largest).then_some(bar)
    }

    /// The decoded size in bytes, a power of two.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The address space.
    #[must_use]
    pub fn space(&self) -> Space {
        if self.flags & IO_SPACE != 0 { Space::Io } else { Space::Memory }
    }

    /// Whether the next register holds the upper half of the address.
    #[must_use]
    pub fn is_64bit(&self) -> bool {
        self.space() == Space::Memory && self.flags & TYPE_MASK == TYPE_64BIT
    }

    fn window(&self) -> Window {
        match self.space() {
            Space::Io => Window::Io,
            Space::Memory if self.is_64bit() => Window::Memory64,
            Space::Memory => Window::Memory32,
        }
    }

    fn address_bits(&self) -> u64 {
        !self.size.saturating_sub(1)
    }
}

/// The base address register of an expansion ROM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RomBar {
    /// The decoded size in bytes, a power of two.
    size: u64,
}

impl RomBar {
    fn address_bits(self) -> u32 {
        low(!self.size.saturating_sub(1))
    }

    /// The decoded range: Expansion ROM Enable counts only with Memory Space Enable.
    fn decode(self, space: &ConfigSpace) -> Option<BusRange> {
        let register = space.value(ROM_BAR, 4);
        let is_enabled = space.value(COMMAND, 2) & COMMAND_MEMORY != 0 && register & ROM_ENABLE != 0;
        let range = BusRange::new(Space::Memory, u64::from(register & self.address_bits()), self.size);
        range.filter(|_| is_enabled)
    }
}

/// The six BARs of a function, and its expansion ROM. The upper half of a 64-bit BAR is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bars {
    bars: [Option<Bar>; BAR_COUNT],
    rom: Option<RomBar>,
}

impl Bars {
    /// `bars[i]` is the register at `0x10 + 4 * i`. An entry in the place of an upper half is dropped, and so is a
    /// 64-bit BAR in the last register.
    #[must_use]
    pub fn new(bars: [Option<Bar>; BAR_COUNT]) -> Self {
        let mut kept = [None; BAR_COUNT];
        let mut is_upper_half = false;
        let last = BAR_COUNT.saturating_sub(1);
        for (index, (kept, bar)) in kept.iter_mut().zip(bars).enumerate() {
            *kept = bar.filter(|bar| !(is_upper_half || bar.is_64bit() && index == last));
            is_upper_half = kept.is_some_and(|bar| bar.is_64bit());
        }
        Self { bars: kept, rom: None }
    }

    /// Adds an expansion ROM of `size` bytes, rounded up to a power of two. A ROM that is empty or larger than 16 MiB is
    /// left out.
    #[must_use]
    pub fn with_rom(self, size: u64) -> Self {
        let decoded = size.checked_next_power_of_two().filter(|decoded| size > 0 && *decoded <= LARGEST_ROM);
        Self { rom: decoded.map(|size| RomBar { size: size.max(SMALLEST_ROM) }), ..self }
    }

    /// The present BARs, with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Bar)> {
        self.bars.into_iter().enumerate().filter_map(|(index, bar)| Some((index, bar?)))
    }

    /// Defines the registers of the present BARs.
    pub fn define(&self, space: &mut ConfigSpace) {
        for (bar, offset) in self.bars.iter().zip(register_offsets()) {
            let Some(bar) = bar else {
                continue;
            };
            let writable = bar.address_bits();
            let half = |reset, writable| Register {
                width: 4,
                reset,
                emulated: u32::MAX,
                writable,
                ..Register::default()
            };
            space.define(offset, &[half(bar.flags, low(writable))]);
            if bar.is_64bit() {
                space.define(offset.saturating_add(4), &[half(0, high(writable))]);
            }
        }
        if let Some(rom) = self.rom {
            let writable = rom.address_bits() | ROM_ENABLE;
            space.define(
                ROM_BAR,
                &[Register { width: 4, emulated: u32::MAX, writable, ..Register::default() }],
            );
        }
    }

    /// The decode enable bits of the command register for these BARs and the ROM.
    #[must_use]
    pub fn command_bits(&self) -> u32 {
        let rom = self.rom.map_or(0, |_| COMMAND_MEMORY);
        self.iter().fold(rom, |bits, (_, bar)| bits | enable_bit(bar.space()))
    }

    /// The ranges that the registers in `space` decode now.
    #[must_use]
    pub fn decode(&self, space: &ConfigSpace) -> Decoding {
        let command = space.value(COMMAND, 2);
        let mut decoding = [None; DECODER_COUNT];
        if let Some(range) = decoding.last_mut() {
            *range = self.rom.and_then(|rom| rom.decode(space));
        }
        for ((range, bar), offset) in decoding.iter_mut().zip(&self.bars).zip(register_offsets()) {
            *range = bar.filter(|bar| command & enable_bit(bar.space()) != 0).and_then(|bar| {
                let upper = if bar.is_64bit() { space.value(offset.saturating_add(4), 4) } else { 0 };
                let register = u64::from(space.value(offset, 4)) | (u64::from(upper) << 32);
                BusRange::new(bar.space(), register & bar.address_bits(), bar.size())
            });
        }
        decoding
    }

    /// Programs each BAR with an address, the largest BAR first, as firmware would, and the ROM last. A ROM without room
    /// has no address: a guest can give it one.
    ///
    /// # Errors
    /// The window has no room.
    pub fn assign(&self, space: &mut ConfigSpace, addresses: &mut BarAllocator) -> Result<(), WindowFull> {
        let mut bars: Vec<(u16, Bar)> =
            register_offsets().zip(self.bars).filter_map(|(offset, bar)| Some((offset, bar?))).collect();
        bars.sort_by_key(|(_, bar)| std::cmp::Reverse(bar.size()));
        for (offset, bar) in bars {
            let address = addresses.allocate(bar.window(), bar.size())?;
            let width = if bar.is_64bit() { 8 } else { 4 };
            space.write(offset, address.to_le_bytes().get(..width).unwrap_or_default());
        }
        if let Some(address) = self.rom.and_then(|rom| addresses.allocate(Window::Memory32, rom.size).ok()) {
            space.write(ROM_BAR, address.to_le_bytes().get(..4).unwrap_or_default());
        }
        Ok(())
    }
}

fn register_offsets() -> impl Iterator<Item = u16> {
    (BAR0..).step_by(4).take(BAR_COUNT)
}

fn enable_bit(space: Space) -> u32 {
    match space {
        Space::Memory => COMMAND_MEMORY,
        Space::Io => COMMAND_IO,
    }
}

fn low(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::super::windows::tests::windows;
    use super::*;

    /// A 16 KiB 64-bit prefetchable BAR, a 32-bit one of 16 bytes, a 32-port I/O BAR.
    fn bars() -> (Bars, ConfigSpace) {
        let bars = Bars::new([
            Bar::new(0xc, 0x4000),
            Bar::new(0, 0x1000),
            Bar::new(0, 1),
            Bar::new(1, 0x20),
            None,
            Bar::new(0x4, 0x1000),
        ]);
        let mut space = ConfigSpace::device(256);
        space.define(
            COMMAND,
            &[Register { width: 2, emulated: 0xffff, writable: bars.command_bits(), ..Register::default() }],
        );
        for offset in register_offsets() {
            space.hide(offset, 4);
        }
        bars.define(&mut space);
        (bars, space)
    }

    #[test]
    fn impossible_bars_are_not_there() {
        let (bars, _) = bars();
        let indices: Vec<_> = bars.iter().map(|(index, _)| index).collect();
        assert_eq!(indices, [0, 2, 3], "1 is an upper half, 5 has no place for one");
        assert_eq!(Bar::new(0, 0), None);
        assert_eq!(Bar::new(0, 1 << 32), None, "32 bits cannot express it");
        assert_eq!(Bar::new(4, u64::MAX), None);
        assert_eq!(Bar::new(0, 0x1800).unwrap().size(), 0x2000);
    }

    #[test]
    fn sizing_reads_back_the_size_and_the_type() {
        let (_, mut space) = bars();
        for offset in register_offsets() {
            space.write(offset, &[0xff; 4]);
        }
        let read: Vec<_> = register_offsets().map(|offset| space.value(offset, 4)).collect();
        assert_eq!(read, [0xffff_c00c, 0xffff_ffff, 0xffff_fff0, 0xffff_ffe1, 0, 0]);
    }

    #[test]
    fn decoding_follows_the_enable_bits_and_both_halves() {
        let (bars, mut space) = bars();
        space.write(0x10, &0x41_0000_4abc_u64.to_le_bytes());
        space.write(0x18, &0xc000_0010_u32.to_le_bytes());
        space.write(0x1c, &0xc020_u32.to_le_bytes());
        assert_eq!(bars.decode(&space), [None; 7]);
        space.write(COMMAND, &[COMMAND_MEMORY as u8, 0]);
        let decoding = bars.decode(&space);
        assert_eq!(decoding[0], BusRange::new(Space::Memory, 0x41_0000_4000, 0x4000));
        assert_eq!(decoding[2], BusRange::new(Space::Memory, 0xc000_0010, 16));
        assert_eq!(decoding[3], None);
        space.write(COMMAND, &[COMMAND_IO as u8, 0]);
        let decoding = bars.decode(&space);
        assert_eq!((decoding[0], decoding[2]), (None, None));
        assert_eq!(decoding[3], BusRange::new(Space::Io, 0xc020, 0x20));
    }

    /// A function with an expansion ROM of this size, at `0xc010_0000`.
    fn with_rom(size: u64) -> (Bars, ConfigSpace) {
        let bars = Bars::new([Bar::new(0, 0x10_0000), None, None, None, None, None]).with_rom(size);
        let mut space = ConfigSpace::device(256);
        let writable = bars.command_bits();
        space.define(COMMAND, &[Register { width: 2, emulated: 0xffff, writable, ..Register::default() }]);
        space.hide(ROM_BAR, 4);
        bars.define(&mut space);
        bars.assign(&mut space, &mut BarAllocator::new(&windows())).unwrap();
        (bars, space)
    }

    #[test]
    fn a_rom_reads_back_its_size_and_its_enable_bit() {
        for (size, ones) in [
            (1, 0xffff_f801),
            (0x800, 0xffff_f801),
            (0x801, 0xffff_f001),
            (0x1_0000, 0xffff_0001),
            (16 << 20, 0xff00_0001),
        ] {
            let (_, mut space) = with_rom(size);
            space.write(ROM_BAR, &[0xff; 4]);
            assert_eq!(space.value(ROM_BAR, 4), ones, "{size:#x}");
            space.write(ROM_BAR, &0xffff_fffe_u32.to_le_bytes());
            assert_eq!(space.value(ROM_BAR, 4), ones & !1, "{size:#x}");
        }
        for none in [0, (16 << 20) + 1, u64::MAX] {
            let (bars, mut space) = with_rom(none);
            space.write(ROM_BAR, &[0xff; 4]);
            assert_eq!((space.value(ROM_BAR, 4), bars.decode(&space)), (0, [None; 7]), "{none:#x}");
        }
    }

    #[test]
    fn a_rom_decodes_with_both_enable_bits_only() {
        let (bars, mut space) = with_rom(0x1_0000);
        assert_eq!(space.value(ROM_BAR, 4), 0xc010_0000, "assigned and off");
        let decoded = |space: &ConfigSpace| bars.decode(space)[crate::pci::ROM_INDEX];
        space.write(ROM_BAR, &0xc010_0001_u32.to_le_bytes());
        assert_eq!(decoded(&space), None, "Memory Space Enable is off");
        space.write(COMMAND, &[2, 0]);
        assert_eq!(decoded(&space), BusRange::new(Space::Memory, 0xc010_0000, 0x1_0000));
        assert_eq!(bars.decode(&space)[0], BusRange::new(Space::Memory, 0xc000_0000, 0x10_0000));
        space.write(ROM_BAR, &0xc020_0000_u32.to_le_bytes());
        assert_eq!(decoded(&space), None);
    }

    #[test]
    fn a_rom_without_room_has_no_address_and_harms_no_bar() {
        let bars = Bars::new([Bar::new(0, 0x1000_0000), Bar::new(0, 0x1000_0000), None, None, None, None]);
        let bars = bars.with_rom(0x800);
        let mut space = ConfigSpace::emulated();
        bars.define(&mut space);
        bars.assign(&mut space, &mut BarAllocator::new(&windows())).unwrap();
        assert_eq!((space.value(0x10, 4), space.value(ROM_BAR, 4)), (0xc000_0000, 0));
    }

    #[test]
    fn assigned_addresses_lie_in_their_windows() {
        let (bars, mut space) = bars();
        bars.assign(&mut space, &mut BarAllocator::new(&windows())).unwrap();
        space.write(COMMAND, &[0xff, 0xff]);
        let ranges: Vec<_> = bars.decode(&space).into_iter().flatten().collect();
        assert_eq!(ranges.len(), 3);
        assert!(ranges.iter().all(|range| windows().contain(range)), "{ranges:x?}");
        assert_eq!(ranges[0].start(), 0x40_0000_0000);
    }
}
