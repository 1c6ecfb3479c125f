//! The layout of a function's MSI-X structures: a table size, and two windows into BARs.
//!
//! A `Layout` is checked once when it is made, and immutable afterwards. Implements the sizes and offsets of
//! PCIe r6 §7.7.2.2 to §7.7.2.6.

use std::ops::Range;

use super::regs::{MessageControl, WindowRegister};

/// The capability's ID, PCIe r6 §7.7.2.1.
pub const CAPABILITY_ID: u8 = 0x11;
/// The capability's length in configuration space.
pub const CAPABILITY_BYTES: usize = 12;
/// Bytes of a table entry.
pub const ENTRY_BYTES: u64 = 16;

/// The number of vectors of a table: 1 to 2048.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableSize(u16);

impl TableSize {
    /// The largest table that Message Control can describe.
    pub const MAX: Self = Self(2048);

    /// `None` outside 1 to 2048.
    pub fn new(vectors: u16) -> Option<Self> {
        (1..=Self::MAX.0).contains(&vectors).then_some(Self(vectors))
    }

    /// The number of vectors.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// A Base Address Register (BAR): 0 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bar(u8);

impl Bar {
    /// `None` above 5.
    pub fn new(index: u8) -> Option<Self> {
        (index < 6).then_some(Self(index))
    }

    /// The BAR's index.
    pub fn index(self) -> u8 {
        self.0
    }
}

/// A range of bytes in a BAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The BAR.
    pub bar: Bar,
    /// Byte offsets into it.
    pub bytes: Range<u64>,
}

/// Why a layout is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The bytes are not an MSI-X capability.
    #[error("capability ID is {0:#x}, not MSI-X (0x11)")]
    NotMsix(u8),
    /// The BAR indicator is 6 or 7.
    #[error("BAR indicator {0} is reserved")]
    ReservedBar(u8),
    /// The offset is not a multiple of 8.
    #[error("offset {0:#x} is not QWORD aligned")]
    Unaligned(u32),
    /// Table and PBA overlap.
    #[error("table {table:?} and pending bits {pba:?} overlap in BAR {bar}")]
    Overlap {
        /// The BAR both are in.
        bar: u8,
        /// The table's bytes.
        table: Range<u64>,
        /// The pending bits' bytes.
        pba: Range<u64>,
    },
}

/// Sizes and offsets of a function's MSI-X structures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    size: TableSize,
    table: Window,
    pba: Window,
}

/// The owner of a part of a BAR access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The MSI-X table, from this byte offset into the table.
    Table(u64),
    /// The pending bit array, from this byte offset into the array.
    Pba(u64),
    /// Other registers of the function, from this byte offset into the BAR.
    Device(u64),
}

impl Layout {
    /// A layout with the given table and pending bit array. Offsets are in bytes, and multiples of 8.
    ///
    /// # Errors
    /// An offset is misaligned, or the two windows overlap.
    pub fn new(size: TableSize, table: (Bar, u32), pba: (Bar, u32)) -> Result<Self, LayoutError> {
        let window = |(bar, offset): (Bar, u32), len: u64| {
            let start = u64::from(offset);
            if offset % 8 != 0 {
                return Err(LayoutError::Unaligned(offset));
            }
            Ok(Window { bar, bytes: start..start.saturating_add(len) })
        };
        let vectors = u64::from(size.get());
        let table = window(table, vectors.saturating_mul(ENTRY_BYTES))?;
        let pba = window(pba, vectors.div_ceil(64).saturating_mul(8))?;
        let disjoint = table.bytes.end <= pba.bytes.start || pba.bytes.end <= table.bytes.start;
        if table.bar == pba.bar && !disjoint {
            let bar = table.bar.index();
            return Err(LayoutError::Overlap { bar, table: table.bytes, pba: pba.bytes });
        }
        Ok(Self { size, table, pba })
    }

    /// Parses a function's MSI-X capability, the 12 bytes from its ID on, as read from a passed-through
    /// device.
    ///
    /// # Errors
    /// The bytes are not an MSI-X capability, or the capability violates the specification.
    pub fn parse(capability: &[u8; CAPABILITY_BYTES]) -> Result<Self, LayoutError> {
        let [id, _next, control @ .., t0, t1, t2, t3, p0, p1, p2, p3] = *capability;
        if id != CAPABILITY_ID {
            return Err(LayoutError::NotMsix(id));
        }
        let control = MessageControl::from_bits(u16::from_le_bytes(control));
        let window = |bytes| {
            let register = WindowRegister::from_bits(u32::from_le_bytes(bytes));
            let bar = Bar::new(register.bir()).ok_or(LayoutError::ReservedBar(register.bir()))?;
            Ok((bar, register.offset_qwords() << 3))
        };
        let size = TableSize(control.table_size_less_one().saturating_add(1));
        Self::new(size, window([t0, t1, t2, t3])?, window([p0, p1, p2, p3])?)
    }

    /// The number of vectors.
    pub fn size(&self) -> TableSize {
        self.size
    }

    /// The window of the table.
    pub fn table(&self) -> &Window {
        &self.table
    }

    /// The window of the pending bit array.
    pub fn pba(&self) -> &Window {
        &self.pba
    }

    /// The capability's two window registers: Table Offset/Table BIR and PBA Offset/PBA BIR.
    pub(super) fn registers(&self) -> [u32; 2] {
        [&self.table, &self.pba].map(|window| {
            let offset = u32::try_from(window.bytes.start).unwrap_or_default();
            WindowRegister::new().with_bir(window.bar.index()).with_offset_qwords(offset >> 3).into_bits()
        })
    }

    /// Splits a BAR access into parts with one owner each. Yields each part's owner, and its range in the
    /// buffer of the access.
    pub fn split(&self, bar: Bar, offset: u64, len: usize) -> impl Iterator<Item = (Owner, Range<usize>)> {
        let windows = [(&self.table, true), (&self.pba, false)].map(|(window, is_table)| {
            (if window.bar == bar { window.bytes.clone() } else { 0..0 }, is_table)
        });
        let mut done = 0usize;
        std::iter::from_fn(move || {
            let left = len.checked_sub(done).filter(|left| *left > 0)?;
            let at = offset.checked_add(done as u64)?;
            let (mut owner, mut until) = (Owner::Device(at), None);
            for (window, is_table) in &windows {
                let within = at.saturating_sub(window.start);
                if window.contains(&at) {
                    owner = if *is_table { Owner::Table(within) } else { Owner::Pba(within) };
                    until = Some(window.end);
                } else if window.start > at && !window.is_empty() {
                    until = Some(until.map_or(window.start, |until: u64| until.min(window.start)));
                }
            }
            let room = until
                .map_or(usize::MAX, |until| usize::try_from(until.saturating_sub(at)).unwrap_or(usize::MAX));
            let width = left.min(room);
            let start = done;
            done = done.saturating_add(width);
            Some((owner, start..done))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(index: u8) -> Bar {
        Bar::new(index).unwrap()
    }

    fn layout(vectors: u16, table: u32, pba: u32) -> Result<Layout, LayoutError> {
        Layout::new(TableSize::new(vectors).unwrap(), (bar(0), table), (bar(0), pba))
    }

    #[test]
    fn a_table_has_1_to_2048_entries() {
        assert_eq!(TableSize::new(0), None);
        assert_eq!(TableSize::new(2049), None);
        assert_eq!(TableSize::new(2048), Some(TableSize::MAX));
    }

    #[test]
    fn a_capability_parses_into_the_layout_that_writes_it() {
        let mut bytes = [0u8; 12];
        bytes[0] = CAPABILITY_ID;
        bytes[2..4].copy_from_slice(&0x47ffu16.to_le_bytes());
        bytes[4..8].copy_from_slice(&0x0000_2004u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&0x0000_a004u32.to_le_bytes());
        let layout = Layout::parse(&bytes).unwrap();
        assert_eq!(layout.size(), TableSize::MAX);
        assert_eq!(layout.table(), &Window { bar: bar(4), bytes: 0x2000..0xa000 });
        assert_eq!(layout.pba(), &Window { bar: bar(4), bytes: 0xa000..0xa100 });
        assert_eq!(layout.registers(), [0x2004, 0xa004]);
    }

    #[test]
    fn bytes_of_another_capability_are_refused() {
        let mut bytes = [0u8; 12];
        assert_eq!(Layout::parse(&bytes), Err(LayoutError::NotMsix(0)));
        bytes[0] = CAPABILITY_ID;
        bytes[4] = 6;
        assert_eq!(Layout::parse(&bytes), Err(LayoutError::ReservedBar(6)));
        bytes[4] = 0;
        assert!(matches!(Layout::parse(&bytes), Err(LayoutError::Overlap { .. })));
    }

    #[test]
    fn windows_of_one_bar_may_touch_but_not_overlap() {
        assert!(layout(4, 0, 64).is_ok());
        assert!(layout(4, 8, 0).is_ok());
        assert!(matches!(layout(4, 0, 56), Err(LayoutError::Overlap { .. })));
        assert_eq!(layout(4, 4, 64), Err(LayoutError::Unaligned(4)));
    }

    #[test]
    fn an_access_that_straddles_windows_is_split_at_their_edges() {
        let layout = layout(1, 16, 32).unwrap();
        let parts: Vec<_> = layout.split(bar(0), 12, 32).collect();
        assert_eq!(
            parts,
            [
                (Owner::Device(12), 0..4),
                (Owner::Table(0), 4..20),
                (Owner::Pba(0), 20..28),
                (Owner::Device(40), 28..32),
            ]
        );
        let end: Vec<_> = layout.split(bar(0), u64::MAX, 8).collect();
        assert_eq!(end, [(Owner::Device(u64::MAX), 0..8)]);
        let other: Vec<_> = layout.split(bar(1), 12, 32).collect();
        assert_eq!(other, [(Owner::Device(12), 0..32)]);
    }
}
