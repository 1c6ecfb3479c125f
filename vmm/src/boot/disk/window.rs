//! Reads of a disk image through windows, with a budget.
//!
//! A [`Window`] is a range of the image with a position of its own. All windows of a [`Disk`] share the budget: a structure that leads in a
//! loop uses it up, and the next read fails. A window cannot be written.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::rc::Rc;

/// Bytes that a read costs at least.
const LEAST_COST: u64 = 512;
/// Bytes that the structures of the partition table and the file systems may take, beside the files.
const STRUCTURES: u64 = 64 << 20;

trait Image: Read + Seek {}
impl<T: Read + Seek> Image for T {}

/// A disk image.
#[derive(Clone)]
pub(super) struct Disk {
    state: Rc<RefCell<State>>,
    length: u64,
}

struct State {
    image: Box<dyn Image>,
    budget: u64,
}

impl Disk {
    /// An image of which files of `limit` bytes are read.
    pub(super) fn new(mut image: impl Read + Seek + 'static, limit: u64) -> io::Result<Self> {
        let length = image.seek(SeekFrom::End(0))?;
        // FAT's clusters may be as small as a sector, with a read of the allocation table for each.
        let budget = limit.saturating_mul(2).saturating_add(STRUCTURES);
        let state = Rc::new(RefCell::new(State { image: Box::new(image), budget }));
        Ok(Self { state, length })
    }

    /// The size in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The part of `range` that the image has.
    pub(super) fn window(&self, range: Range<u64>) -> Window {
        let end = range.end.min(self.length);
        Window { disk: self.clone(), range: range.start.min(end)..end, position: 0 }
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.try_borrow_mut().map_err(io::Error::other)?;
        let cost = LEAST_COST.max(bytes.len() as u64);
        let left = state.budget.checked_sub(cost);
        state.budget =
            left.ok_or_else(|| io::Error::other("its structures lead in a loop, or are too large"))?;
        state.image.seek(SeekFrom::Start(at))?;
        state.image.read(bytes)
    }
}

/// A range of the image.
pub(super) struct Window {
    disk: Disk,
    range: Range<u64>,
    position: u64,
}

impl Window {
    /// Reads all of `bytes` at an offset.
    pub(super) fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.position = offset;
        self.read_exact(bytes)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("range", &self.range).field("position", &self.position).finish()
    }
}

impl Read for Window {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let at = self.range.start.saturating_add(self.position).min(self.range.end);
        let left = usize::try_from(self.range.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let bytes = bytes.get_mut(..left.min(bytes.len())).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(0);
        }
        let read = self.disk.read(at, bytes)?;
        self.position = self.position.saturating_add(read as u64);
        Ok(read)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => {
                self.range.end.saturating_sub(self.range.start).checked_add_signed(offset)
            }
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// The FAT crate asks for a writer.
impl Write for Window {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ext4_view::Ext4Read for Window {
    fn read(
        &mut self,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.read_at(offset, bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_window_ends_where_its_range_or_the_image_ends_and_cannot_be_written() {
        let disk = Disk::new(Cursor::new((0..100u8).collect::<Vec<_>>()), 0).unwrap();
        for (range, expected) in [(10..13, 3), (98..200, 2), (100..101, 0), (300..400, 0)] {
            let mut window = disk.window(range.clone());
            let mut bytes = Vec::new();
            assert_eq!(window.read_to_end(&mut bytes).unwrap(), expected, "{range:?}");
            assert_eq!(window.seek(SeekFrom::End(0)).unwrap(), expected as u64);
            assert!(window.write(&[0]).is_err());
        }
        let mut byte = [0];
        disk.window(10..13).read_at(2, &mut byte).unwrap();
        assert_eq!(byte, [12]);
        assert!(disk.window(10..13).read_at(u64::MAX, &mut byte).is_err());
    }

    #[test]
    fn the_budget_ends_a_loop() {
        let disk = Disk::new(Cursor::new(vec![0; 512]), 1 << 20).unwrap();
        let mut window = disk.window(0..512);
        let reads = (0..).take_while(|_| window.read_at(0, &mut [0; 4]).is_ok()).count();
        assert_eq!(reads, (66 << 20) / 512);
    }
}
