//! Host memory behind the guest's: anonymous for RAM, and files for BARs, both aligned so that huge pages can back them.
//!
//! Contains `unsafe` for mappings at an aligned address, which vm-memory cannot create. RAM is never unmapped: it lives
//! as long as the process, because a device may still do DMA into it. A [`FileMapping`] ends with its object.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, MmapRegion};

/// Size of a page.
const PAGE: usize = 4096;
/// Size and alignment of a huge page. One second-level page table entry maps it.
const HUGE_PAGE: usize = 2 << 20;
/// The same for a third-level entry.
const GIGANTIC_PAGE: usize = 1 << 30;

/// Maps `size` bytes of zeroed memory, aligned to a huge page, and asks the kernel for huge pages.
///
/// # Errors
/// The host's error if it refuses the mapping.
pub(super) fn map_anonymous(size: usize) -> io::Result<MmapRegion> {
    let (_, _, aligned) = reserve(size)?;
    let prot = i32::try_from((ProtFlags::READ | ProtFlags::WRITE).bits()).unwrap_or_default();
    let flags = i32::try_from(ANONYMOUS.bits()).unwrap_or_default();
    // SAFETY: the range is mapped readable and writable, nothing else refers to it, and it is never unmapped.
    let region = unsafe { MmapRegion::build_raw(aligned, size, prot, flags) };
    region.map_err(io::Error::other)
}

/// NORESERVE: an untouched page costs nothing.
const ANONYMOUS: MapFlags = MapFlags::PRIVATE.union(MapFlags::NORESERVE);

/// Maps zeroed memory with `size` bytes from a huge page's start on, and asks the kernel for huge pages. Returns the mapping, its size and
/// that start.
fn reserve(size: usize) -> io::Result<(*mut u8, usize, *mut u8)> {
    let reserve = size.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let mapping = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), reserve, prot, ANONYMOUS) }?;
    let mapping = mapping.cast::<u8>();
    let aligned = mapping.wrapping_add(mapping.align_offset(HUGE_PAGE));
    // SAFETY: `aligned..aligned + size` lies in the mapping just made, and advice does not change its
    // contents.
    if let Err(error) = unsafe { rustix::mm::madvise(aligned.cast(), size, Advice::LinuxHugepage) } {
        tracing::info!("cannot enable huge pages: {error}");
    }
    Ok((mapping, reserve, aligned))
}

/// A zeroed buffer with huge pages, for large data that the VMM soon drops. Ordinary allocations take a page fault for each 4 KiB.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Where the buffer starts, aligned to a huge page.
    start: *mut u8,
    size: usize,
    /// The mapping with the buffer in it.
    mapping: *mut u8,
    reserved: usize,
}

// SAFETY: the buffer belongs to the object alone, like a `Vec`'s.
unsafe impl Send for Scratch {}

impl Scratch {
    /// Maps `size` bytes.
    ///
    /// # Errors
    /// The host's error.
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        let (mapping, reserved, start) = reserve(size)?;
        Ok(Self { start, size, mapping, reserved })
    }

    /// Forgets the bytes from `size` on.
    pub(crate) fn truncate(&mut self, size: usize) {
        self.size = self.size.min(size);
    }
}

impl AsRef<[u8]> for Scratch {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the bytes are mapped and initialised, and only `as_mut` gives a mutable reference.
        unsafe { std::slice::from_raw_parts(self.start, self.size) }
    }
}

impl AsMut<[u8]> for Scratch {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes are mapped and initialised, and `self` is borrowed for as long as the reference.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.size) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        unmap(self.mapping, self.reserved);
    }
}

/// A part of a file in this process, for reads and writes. Dropping it removes the mapping.
///
/// Its address is congruent to the file offset modulo the largest huge page that fits. The kernel can then map a BAR's
/// pages with huge page table entries (Linux 6.12, "vfio/pci: implement huge_fault support").
#[derive(Debug)]
pub struct FileMapping {
    region: MmapRegion,
    /// Bytes of whole pages.
    reserved: usize,
}

impl FileMapping {
    /// Maps `size` bytes of `file` at `offset`, shared with all other users of the file.
    ///
    /// # Errors
    /// The host's error, for example because the offset is not page-aligned.
    pub fn new(file: &File, offset: u64, size: usize) -> io::Result<Self> {
        let short = || io::Error::from(io::ErrorKind::OutOfMemory);
        let reserved = size.checked_next_multiple_of(PAGE).filter(|_| size > 0);
        let reserved = reserved.ok_or(io::ErrorKind::InvalidInput)?;
        let alignment = [GIGANTIC_PAGE, HUGE_PAGE].into_iter().find(|page| reserved >= *page).unwrap_or(PAGE);
        let phase = usize::try_from(offset).map_err(io::Error::other)? & alignment.saturating_sub(1);
        let whole = reserved.checked_add(alignment).ok_or_else(short)?;
        let none = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, none.0, none.1) }?;
        let start = start.cast::<u8>();
        let misaligned = (start as usize).wrapping_sub(phase) & alignment.saturating_sub(1);
        let before = if misaligned == 0 { 0 } else { alignment.saturating_sub(misaligned) };
        let mapped = start.wrapping_add(before);
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: the range lies in the reservation just made, which nothing else uses.
        let result = unsafe { rustix::mm::mmap(mapped.cast(), size, prot, flags, file.as_fd(), offset) };
        if let Err(error) = result {
            unmap(start, whole);
            return Err(error.into());
        }
        unmap(start, before);
        unmap(mapped.wrapping_add(reserved), alignment.saturating_sub(before));
        let prot = i32::try_from(prot.bits()).unwrap_or_default();
        let flags = i32::try_from(MapFlags::SHARED.bits()).unwrap_or_default();
        // SAFETY: the range is mapped readable and writable, and stays so until `self` is dropped.
        match unsafe { MmapRegion::build_raw(mapped, size, prot, flags) } {
            Ok(region) => Ok(Self { region, reserved }),
            Err(error) => {
                unmap(mapped, reserved);
                Err(io::Error::other(error))
            }
        }
    }

    /// The mapped bytes.
    #[must_use]
    pub fn region(&self) -> &MmapRegion {
        &self.region
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        unmap(self.region.as_ptr(), self.reserved);
    }
}

/// Unmaps whole pages that this module has mapped and nothing refers to.
fn unmap(start: *mut u8, size: usize) {
    if size == 0 {
        return;
    }
    // SAFETY: the callers own the range, and hand out no reference that outlives it.
    if let Err(error) = unsafe { rustix::mm::munmap(start.cast(), size) } {
        tracing::warn!("cannot unmap {size:#x} bytes of a device: {error}");
    }
}

/// Faults in the pages of a range of RAM now, instead of on first access.
///
/// # Errors
/// The host's error: kernels before 5.14 lack `MADV_POPULATE_WRITE`, or memory is short. The pages are faulted in on
/// access then.
pub(crate) fn populate(memory: &GuestMemoryMmap, range: Range<u64>) -> io::Result<()> {
    let size = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let slice = memory.get_slice(GuestAddress(range.start), size).map_err(io::Error::other)?;
    let start = slice.ptr_guard_mut().as_ptr();
    // SAFETY: `slice` is mapped, readable and writable memory; making its pages does not change what they
    // hold.
    unsafe { rustix::mm::madvise(start.cast(), size, Advice::LinuxPopulateWrite) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_buffer_is_zeroed_and_keeps_what_is_written() {
        for size in [0, 1, 5000, HUGE_PAGE + 1] {
            let mut scratch = Scratch::new(size).unwrap();
            assert!(scratch.as_ref().len() == size && scratch.as_ref().iter().all(|byte| *byte == 0));
            scratch.as_mut().fill(7);
            scratch.truncate(size / 2);
            assert!(scratch.as_ref().len() == size / 2 && scratch.as_ref().iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn populated_pages_keep_their_contents_and_ranges_outside_are_refused() {
        let region =
            vm_memory::GuestRegionMmap::new(map_anonymous(HUGE_PAGE).unwrap(), GuestAddress(0)).unwrap();
        let memory = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        vm_memory::Bytes::write_obj(&memory, 7u8, GuestAddress(5)).unwrap();
        populate(&memory, 0..HUGE_PAGE as u64).unwrap();
        assert_eq!(vm_memory::Bytes::read_obj::<u8>(&memory, GuestAddress(5)).unwrap(), 7);
        assert!(populate(&memory, 0..HUGE_PAGE as u64 + 1).is_err());
    }

    /// An empty file of this size.
    fn file(size: u64) -> File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("bar", flags).unwrap());
        file.set_len(size).unwrap();
        file
    }

    #[test]
    fn a_file_is_mapped_where_the_largest_huge_page_that_fits_can_map_it() {
        const GIB: u64 = 1 << 30;
        let file = file(4 * GIB);
        for (offset, size, alignment) in [
            (0, 0x1000, 0x1000),
            (0x3000, (2 << 20) - 0x1000, 0x1000),
            (0x3000, 2 << 20, 2 << 20),
            (0, 16 << 20, 2 << 20),
            (GIB, GIB - 0x1000, 2 << 20),
            (GIB + 0x5000, GIB, GIB),
            (GIB, 2 * GIB, GIB),
        ] {
            let mapping = FileMapping::new(&file, offset, size as usize).unwrap();
            let address = mapping.region().as_ptr() as u64;
            assert_eq!(address % alignment, offset % alignment, "{offset:#x} {size:#x}");
            assert_eq!(mapping.region().size() as u64, size);
        }
    }

    #[test]
    fn a_file_mapping_shows_the_file_and_only_its_bytes() {
        use std::os::unix::fs::FileExt;

        use vm_memory::{Bytes, VolatileMemory};
        let file = file(4 << 20);
        file.write_all_at(&[1, 2, 3, 4], 0x2000).unwrap();
        let mapping = FileMapping::new(&file, 0x2000, 0x1800).unwrap();
        let bytes = mapping.region().as_volatile_slice();
        let mut read = [0; 4];
        bytes.read_slice(&mut read, 0).unwrap();
        assert_eq!((read, bytes.len()), ([1, 2, 3, 4], 0x1800));
        bytes.write_slice(&[9], 0x17ff).unwrap();
        file.read_exact_at(&mut read[..1], 0x37ff).unwrap();
        assert_eq!(read[0], 9);
    }

    #[test]
    fn a_mapping_that_the_host_refuses_leaves_nothing_mapped() {
        let file = file(0x1000);
        let maps = || std::fs::read_to_string("/proc/thread-self/maps").unwrap();
        assert!(FileMapping::new(&file, 0x800, 0x1000).is_err(), "not at a page");
        assert!(FileMapping::new(&file, 0, 0).is_err());
        assert!(FileMapping::new(&file, 0, usize::MAX).is_err());
        assert!(FileMapping::new(&File::open("/dev/null").unwrap(), 0, 0x1000).is_err());
        let mapping = FileMapping::new(&file, 0, 0x1000).unwrap();
        let line = format!("{:x}-", mapping.region().as_ptr() as usize);
        assert!(maps().lines().any(|map| map.starts_with(&line) && map.contains("memfd:bar")));
        drop(mapping);
        assert!(!maps().lines().any(|map| map.starts_with(&line) && map.contains("memfd:bar")));
    }

    #[test]
    fn memory_is_aligned_zero_and_writable() {
        let region = map_anonymous(HUGE_PAGE + 4096).unwrap();
        assert_eq!(region.as_ptr().align_offset(HUGE_PAGE), 0);
        assert_eq!(region.size(), HUGE_PAGE + 4096);
        let memory = vm_memory::GuestRegionMmap::<()>::new(region, vm_memory::GuestAddress(0)).unwrap();
        let byte: u8 =
            vm_memory::Bytes::read_obj(&memory, vm_memory::MemoryRegionAddress(HUGE_PAGE as u64)).unwrap();
        assert_eq!(byte, 0);
        vm_memory::Bytes::write_obj(&memory, 7u8, vm_memory::MemoryRegionAddress(HUGE_PAGE as u64 + 4095))
            .unwrap();
    }
}
