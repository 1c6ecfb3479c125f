//! Anonymous host memory for RAM, aligned so that huge pages can back it.
//!
//! Contains `unsafe` for a private anonymous mapping at an aligned address, which vm-memory cannot create. The
//! mapping is never unmapped: RAM lives as long as the process, because a device may still do DMA into it.

use std::io;
use std::ops::Range;

use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, MmapRegion};

/// Size and alignment of a huge page. One second-level page table entry maps it.
const HUGE_PAGE: usize = 2 << 20;

/// Maps `size` bytes of zeroed memory, aligned to a huge page, and asks the kernel for huge pages.
///
/// # Errors
/// The host's error if it refuses the mapping.
pub(super) fn map_anonymous(size: usize) -> io::Result<MmapRegion> {
    let reserve = size.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // NORESERVE: an untouched guest page costs nothing.
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), reserve, prot, flags) }?;
    let padding = start.align_offset(HUGE_PAGE);
    let aligned = start.cast::<u8>().wrapping_add(padding);
    // SAFETY: `aligned..aligned + size` lies in the mapping just made, and advice does not change its
    // contents.
    if let Err(error) = unsafe { rustix::mm::madvise(aligned.cast(), size, Advice::LinuxHugepage) } {
        tracing::info!("cannot enable huge pages for guest memory: {error}");
    }
    let prot = i32::try_from(prot.bits()).unwrap_or_default();
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    // SAFETY: the range is mapped readable and writable, nothing else refers to it, and it is never unmapped.
    let region = unsafe { MmapRegion::build_raw(aligned, size, prot, flags) };
    region.map_err(io::Error::other)
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
    fn populated_pages_keep_their_contents_and_ranges_outside_are_refused() {
        let region =
            vm_memory::GuestRegionMmap::new(map_anonymous(HUGE_PAGE).unwrap(), GuestAddress(0)).unwrap();
        let memory = GuestMemoryMmap::from_regions(vec![region]).unwrap();
        vm_memory::Bytes::write_obj(&memory, 7u8, GuestAddress(5)).unwrap();
        populate(&memory, 0..HUGE_PAGE as u64).unwrap();
        assert_eq!(vm_memory::Bytes::read_obj::<u8>(&memory, GuestAddress(5)).unwrap(), 7);
        assert!(populate(&memory, 0..HUGE_PAGE as u64 + 1).is_err());
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
