//! A region of a VFIO device: access through the device's descriptor, and the ranges that the host can mmap.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ioctl;
use super::region_info::RegionInfo;

/// One region.
#[derive(Debug)]
pub struct Region {
    device: Arc<File>,
    /// File offset of the region.
    file_offset: u64,
    size: u64,
    areas: Vec<Range<u64>>,
    failures: AtomicU64,
}

impl Region {
    /// The device's region with this index. `None` if the region is empty.
    ///
    /// # Errors
    /// The host's error.
    pub fn new(device: &Arc<File>, index: u32) -> io::Result<Option<Self>> {
        let info = RegionInfo::request(|reply| ioctl::region_info(device, index, reply))?;
        if info.size == 0 {
            return Ok(None);
        }
        let (file_offset, size, areas) = (info.file_offset, info.size, info.areas());
        let device = Arc::clone(device);
        Ok(Some(Self { device, file_offset, size, areas, failures: AtomicU64::new(0) }))
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_file(device: &Arc<File>, file_offset: u64, size: u64) -> Self {
        let device = Arc::clone(device);
        Self { device, file_offset, size, areas: Vec::new(), failures: AtomicU64::new(0) }
    }

    /// The device's descriptor.
    #[must_use]
    pub fn device(&self) -> &Arc<File> {
        &self.device
    }

    /// File offset of the region.
    #[must_use]
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The ranges that the host can mmap. They exceed a region that is smaller than a page.
    #[must_use]
    pub fn mappable_areas(&self) -> &[Range<u64>] {
        &self.areas
    }

    /// Number of accesses that the host has refused.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Reads. An access that the host refuses reads all ones, as on a bus. The host keeps the access width.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let read = self.at(offset).and_then(|at| self.device.read_exact_at(data, at));
        if let Err(error) = read {
            data.fill(0xff);
            self.count("read", offset, data.len(), &error);
        }
    }

    /// All bytes of the region. The caller bounds its size.
    ///
    /// # Errors
    /// The host's error, also if it ends the region early.
    pub(super) fn contents(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.size).map_err(io::Error::other)?];
        self.device.read_exact_at(&mut bytes, self.file_offset)?;
        Ok(bytes)
    }

    /// Writes. An access that the host refuses is dropped, as on a bus.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let written = self.at(offset).and_then(|at| self.device.write_all_at(data, at));
        if let Err(error) = written {
            self.count("write", offset, data.len(), &error);
        }
    }

    fn at(&self, offset: u64) -> io::Result<u64> {
        let at = self.file_offset.checked_add(offset).filter(|_| offset < self.size);
        at.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn count(&self, access: &str, offset: u64, len: usize, error: &io::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            "the host refused a {access} of {len} bytes at {offset:#x} of a device's region: {error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_that_the_host_refuses_read_all_ones() {
        let device = Arc::new(File::open("/dev/null").unwrap());
        let region =
            Region { device, file_offset: 0, size: 8, areas: Vec::new(), failures: AtomicU64::new(0) };
        let mut data = [0; 4];
        region.read(4, &mut data);
        assert_eq!((data, region.failures()), ([0xff; 4], 1));
        region.read(u64::MAX, &mut data);
        region.write(8, &data);
        assert_eq!(region.failures(), 3);
    }
}
