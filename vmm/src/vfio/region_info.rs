//! VFIO_DEVICE_GET_REGION_INFO: the size and flags of a region, and the areas that the host can mmap.
//!
//! The host answers in two steps. A short request learns the size of the reply: `cap_offset` is 0, and some vendor
//! drivers set their flags only later. A long request gets the whole reply. Invariant: every value comes from the
//! long reply. The capability list is the host's, but no list makes this code panic, loop or read outside of it.
//!
//! Linux `include/uapi/linux/vfio.h`: `struct vfio_region_info`, `struct vfio_region_info_cap_sparse_mmap`.

use std::io;
use std::ops::Range;

use vfio_bindings::bindings::vfio::{
    VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP,
};

use super::mmap_ranges::PAGE;

/// Bytes of the reply before the first capability.
const FIXED: usize = 32;
/// Maximum size of a reply. A larger one is refused.
const LONGEST: usize = 1 << 16;
/// Number of requests before a reply that keeps growing is refused.
const REQUESTS: u32 = 4;

/// The reply for one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RegionInfo {
    flags: u32,
    capabilities: u32,
    /// Size of the region in bytes. An empty region has 0.
    pub(super) size: u64,
    /// File offset of the region in the device's descriptor.
    pub(super) file_offset: u64,
    /// The whole reply. Capability offsets count from its start.
    reply: Vec<u8>,
}

impl RegionInfo {
    /// Asks the host. `request` fills a buffer of `argsz` bytes, as VFIO_DEVICE_GET_REGION_INFO does.
    ///
    /// # Errors
    /// The host's error, or a reply that is larger than 64 KiB or keeps growing.
    pub(super) fn request(mut request: impl FnMut(&mut [u64]) -> io::Result<()>) -> io::Result<Self> {
        let mut length = FIXED;
        for _ in 0..REQUESTS {
            let mut words = vec![0u64; length.div_ceil(size_of::<u64>())];
            request(&mut words)?;
            let reply: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
            let whole = usize::try_from(dword(&reply, 0).unwrap_or(0)).unwrap_or(usize::MAX);
            if whole <= length {
                return Self::parse(reply).ok_or_else(|| io::Error::other("the host's reply is too short"));
            }
            if whole > LONGEST {
                return Err(io::Error::other(format!("a region has {whole} bytes of information")));
            }
            length = whole;
        }
        Err(io::Error::other("a region's information grows with each request"))
    }

    fn parse(reply: Vec<u8>) -> Option<Self> {
        Some(Self {
            flags: dword(&reply, 4)?,
            capabilities: dword(&reply, 12)?,
            size: qword(&reply, 16)?,
            file_offset: qword(&reply, 24)?,
            reply,
        })
    }

    /// The areas that the host can mmap, sorted: those of the sparse-mmap capability, or else the whole region. An area
    /// must be mapped as it is listed, because a vendor driver may refuse a part of it. An area that does not start at
    /// a page, exceeds the region, or overlaps another is left out.
    pub(super) fn areas(&self) -> Vec<Range<u64>> {
        if self.flags & VFIO_REGION_INFO_FLAG_MMAP == 0 {
            return Vec::new();
        }
        let Some(pages) = whole_pages(self.size).filter(|pages| !pages.is_empty()) else {
            return Vec::new();
        };
        match self.sparse_areas() {
            None => vec![pages],
            Some(mut listed) => {
                listed.retain(|area| {
                    area.start < area.end && area.start.is_multiple_of(PAGE) && area.end <= pages.end
                });
                listed.sort_by_key(|area| area.start);
                let mut end = 0;
                listed.retain(|area| {
                    let is_apart = area.start >= end;
                    if is_apart {
                        end = area.end;
                    }
                    is_apart
                });
                listed
            }
        }
    }

    /// The areas of the sparse-mmap capability as they are listed. `None` without one. A malformed list ends.
    fn sparse_areas(&self) -> Option<Vec<Range<u64>>> {
        if self.flags & VFIO_REGION_INFO_FLAG_CAPS == 0 {
            return None;
        }
        let mut offset = self.capabilities;
        // Offsets increase, so a list that points back ends.
        loop {
            let at = usize::try_from(offset).ok().filter(|at| *at >= FIXED)?;
            let next = dword(&self.reply, at.checked_add(4)?)?;
            if dword(&self.reply, at)? & 0xffff == VFIO_REGION_INFO_CAP_SPARSE_MMAP {
                let count = usize::try_from(dword(&self.reply, at.checked_add(8)?)?).ok()?;
                let bytes = self.reply.get(at.checked_add(16)?..)?;
                let (entries, _) = bytes.as_chunks::<16>();
                let area = |entry: &[u8; 16]| {
                    let start = qword(entry, 0)?;
                    Some(start..start.checked_add(qword(entry, 8)?)?)
                };
                return entries.get(..count)?.iter().map(area).collect();
            }
            offset = Some(next).filter(|next| *next > offset)?;
        }
    }
}

/// All pages of a region of `size` bytes. VFIO reserves the rest of a page for a region that is smaller (Linux
/// 05f0c03fbac1, "vfio-pci: Allow to mmap sub-page MMIO BARs if the mmio page is exclusive").
fn whole_pages(size: u64) -> Option<Range<u64>> {
    Some(0..size.checked_next_multiple_of(PAGE)?)
}

fn dword(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn qword(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]
mod tests {
    use super::*;

    const READ_WRITE_MMAP: u32 = 0b0111;
    const CAPS: u32 = 0b1000;

    /// A region as the kernel answers for it: `vfio_pci_ioctl_get_region_info` in Linux 6.12. A reply that does not fit
    /// has `cap_offset` 0. `early_flags` are those of the short reply.
    struct Host {
        size: u64,
        early_flags: u32,
        capabilities: Vec<u8>,
        requests: u32,
    }

    impl Host {
        fn new(size: u64, capabilities: Vec<u8>) -> Self {
            Self { size, early_flags: READ_WRITE_MMAP | CAPS, capabilities, requests: 0 }
        }

        fn answer(&mut self, words: &mut [u64]) -> io::Result<()> {
            self.requests += 1;
            let whole = FIXED + self.capabilities.len();
            let fits = words.len() * 8 >= whole;
            let (flags, offset) = match (self.capabilities.is_empty(), fits) {
                (true, _) => (READ_WRITE_MMAP, 0),
                (false, false) => (self.early_flags, 0),
                (false, true) => (READ_WRITE_MMAP | CAPS, FIXED as u32),
            };
            let mut bytes = Vec::new();
            bytes.extend([whole as u32, flags, 0, offset].into_iter().flat_map(u32::to_ne_bytes));
            bytes.extend([self.size, 0x10_0000_0000].into_iter().flat_map(u64::to_ne_bytes));
            if fits {
                bytes.extend(&self.capabilities);
            }
            bytes.resize(words.len() * 8, 0);
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u64::from_ne_bytes(*bytes);
            }
            Ok(())
        }

        fn info(&mut self) -> RegionInfo {
            RegionInfo::request(|words| self.answer(words)).unwrap()
        }
    }

    fn capability(id: u16, next: u32, body: &[u64]) -> Vec<u8> {
        let mut bytes = id.to_ne_bytes().to_vec();
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(next.to_ne_bytes());
        bytes.extend(body.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    fn sparse(areas: &[Range<u64>]) -> Vec<u8> {
        let body = areas.iter().flat_map(|area| [area.start, area.end - area.start]);
        let body: Vec<u64> = [areas.len() as u64].into_iter().chain(body).collect();
        capability(1, 0, &body)
    }

    #[test]
    fn sparse_areas_come_from_the_long_reply() {
        let listed = [0..0x1000, 0x4000..0x6000];
        let mut host = Host::new(0x8000, sparse(&listed));
        let info = host.info();
        assert_eq!((info.areas(), host.requests), (listed.to_vec(), 2));
        assert_eq!((info.size, info.file_offset), (0x8000, 0x10_0000_0000));
    }

    #[test]
    fn flags_that_only_the_long_reply_has_count() {
        let mut host = Host::new(0x8000, sparse(&[0x2000..0x4000]));
        host.early_flags = 0;
        assert_eq!(host.info().areas(), [0x2000..0x4000]);
    }

    #[test]
    fn a_region_without_capabilities_is_asked_for_once_and_mapped_whole() {
        let mut host = Host::new(0x4000, Vec::new());
        assert_eq!((host.info().areas(), host.requests), (vec![0..0x4000], 1));
        assert_eq!(Host::new(0x100, Vec::new()).info().areas(), [0..0x1000], "with the rest of its page");
        let mappable = Host::new(0x4000, capability(3, 0, &[])).info();
        assert_eq!(mappable.areas(), [0..0x4000], "MSI-X mappable is no sparse list");
    }

    #[test]
    fn a_sparse_list_behind_another_capability_is_found() {
        let mut capabilities = capability(3, FIXED as u32 + 8, &[]);
        capabilities.extend(sparse(&[0x1000..0x3000]));
        assert_eq!(Host::new(0x8000, capabilities).info().areas(), [0x1000..0x3000]);
    }

    #[test]
    fn an_empty_sparse_list_maps_nothing() {
        assert_eq!(Host::new(0x8000, sparse(&[])).info().areas(), []);
    }

    #[test]
    fn an_empty_region_and_empty_areas_map_nothing() {
        assert_eq!(Host::new(0, Vec::new()).info().areas(), []);
        assert_eq!(Host::new(0, sparse(&[0..0x1000])).info().areas(), []);
        let among = sparse(&[0..0x1000, 0x1000..0x1000, 0..0, 0x1000..0x2000]);
        assert_eq!(Host::new(0x8000, among).info().areas(), [0..0x1000, 0x1000..0x2000]);
    }

    #[test]
    fn areas_are_kept_whole_and_exact_or_left_out() {
        let areas = |listed: &[Range<u64>]| Host::new(0x8000, sparse(listed)).info().areas();
        assert_eq!(areas(&[0x4000..0x8000, 0..0x1000]), [0..0x1000, 0x4000..0x8000], "sorted");
        assert_eq!(areas(&[0..0x1800]), [0..0x1800], "an end within a page is the host's choice");
        assert_eq!(areas(&[0x800..0x2000, 0x2000..0x3000]), [0x2000..0x3000], "mmap starts at a page");
        assert_eq!(areas(&[0..0x1000, 0x7000..0x9000]), [0..0x1000], "behind the region");
        assert_eq!(areas(&[0..0x2000, 0x1000..0x3000, 0x3000..0x4000]), [0..0x2000, 0x3000..0x4000]);
        assert_eq!(areas(&[0x1000..0x1000]), []);
    }

    #[test]
    fn a_malformed_list_is_no_sparse_list_and_ends() {
        let areas = |capabilities: Vec<u8>| Host::new(0x8000, capabilities).info().areas();
        let whole = [0..0x8000];
        assert_eq!(areas(capability(3, FIXED as u32, &[])), whole, "points to itself");
        assert_eq!(areas(capability(3, 4, &[])), whole, "points into the header");
        assert_eq!(areas(capability(3, 0xffff_fff0, &[])), whole, "points outside");
        let cut = sparse(&[0..0x1000, 0x2000..0x3000]);
        assert_eq!(areas(cut[..cut.len() - 8].to_vec()), whole, "cut short");
        assert_eq!(areas(capability(1, 0, &[u64::from(u32::MAX)])), whole, "more areas than bytes");
        assert_eq!(areas(capability(1, 0, &[1, u64::MAX, 2])), whole, "wraps around");
    }

    #[test]
    fn replies_that_are_too_large_or_keep_growing_are_refused() {
        let size = |argsz: u32| {
            RegionInfo::request(|words| {
                words[0] = argsz.into();
                Ok(())
            })
        };
        assert!(size((1 << 16) + 1).unwrap_err().to_string().contains("65537 bytes"));
        assert!(size(u32::MAX).is_err());
        let mut argsz = 40;
        let growing = RegionInfo::request(|words| {
            argsz += 8;
            words[0] = argsz;
            Ok(())
        });
        assert!(growing.unwrap_err().to_string().contains("grows"));
        let refused = RegionInfo::request(|_| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
