//! A region of a VFIO device: access through the device's descriptor, and the ranges that the host can mmap.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vfio_bindings::bindings::vfio::{
    VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP,
};

use super::ioctl;
use super::mmap_ranges::PAGE;

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
        let (info, capabilities) = ioctl::region_info(device, index)?;
        if info.size == 0 {
            return Ok(None);
        }
        let has = |flag| info.flags & flag != 0;
        let sparse =
            if has(VFIO_REGION_INFO_FLAG_CAPS) { sparse_areas(&capabilities, info.cap_offset) } else { None };
        let areas = match sparse {
            _ if !has(VFIO_REGION_INFO_FLAG_MMAP) => Vec::new(),
            Some(areas) => areas,
            None => whole_pages(info.size).into_iter().collect(),
        };
        let device = Arc::clone(device);
        let region =
            Self { device, file_offset: info.offset, size: info.size, areas, failures: AtomicU64::new(0) };
        Ok(Some(region))
    }

    #[cfg(test)]
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

/// All pages of a region of `size` bytes. VFIO reserves the rest of a page for a region that is smaller (Linux
/// 05f0c03fbac1, "vfio-pci: Allow to mmap sub-page MMIO BARs if the mmio page is exclusive").
fn whole_pages(size: u64) -> Option<Range<u64>> {
    Some(0..size.checked_next_multiple_of(PAGE)?)
}

/// The areas of a sparse-mmap capability (struct vfio_region_info_cap_sparse_mmap) in the list at `offset`, if
/// present.
fn sparse_areas(bytes: &[u8], mut offset: u32) -> Option<Vec<Range<u64>>> {
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    // Offsets must increase, so a malformed list ends.
    loop {
        let at = usize::try_from(offset).ok().filter(|at| *at > 0)?;
        let next = word(at.checked_add(4)?)?;
        if word(at)? & 0xffff == VFIO_REGION_INFO_CAP_SPARSE_MMAP {
            let count = usize::try_from(word(at.checked_add(8)?)?).ok()?;
            let first = at.checked_add(16)?;
            let area = |index: usize| {
                let at = first.checked_add(index.checked_mul(16)?)?;
                let start = long(at)?;
                Some(start..start.checked_add(long(at.checked_add(8)?)?)?)
            };
            return (0..count).map(area).collect();
        }
        offset = Some(next).filter(|next| *next > offset)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability(id: u16, next: u32, body: &[u64]) -> Vec<u8> {
        let mut bytes = id.to_ne_bytes().to_vec();
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        bytes.extend(body.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn sparse_areas_are_found_behind_other_capabilities() {
        let mut bytes = vec![0; 32];
        bytes.extend(capability(3, 40, &[]));
        bytes.extend(capability(1, 0, &[2, 0, 0x1000, 0x4000, 0x2000]));
        assert_eq!(sparse_areas(&bytes, 32), Some(vec![0..0x1000, 0x4000..0x6000]));
        assert_eq!(sparse_areas(&bytes[..bytes.len() - 1], 32), None, "cut short");
        assert_eq!(sparse_areas(&bytes, 0), None);
    }

    #[test]
    fn less_than_a_page_is_mapped_with_the_rest_of_it() {
        assert_eq!(whole_pages(0x100), Some(0..0x1000));
        assert_eq!(whole_pages(0x4000), Some(0..0x4000));
        assert_eq!(whole_pages(u64::MAX), None);
    }

    #[test]
    fn a_list_without_areas_ends_even_if_it_is_broken() {
        let mut bytes = vec![0; 32];
        bytes.extend(capability(3, 32, &[]));
        assert_eq!(sparse_areas(&bytes, 32), None, "points to itself");
        assert_eq!(sparse_areas(&bytes, 4096), None, "points outside");
    }

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
