//! The VFIO ioctls of containers, groups and devices (linux/vfio.h), one function each.
//!
//! Contains the `unsafe` for VFIO, except for MSI and MSI-X, which the vm-msi crate handles. The functions accept any
//! descriptor: one that is not VFIO's returns the kernel's error.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_TYPE, vfio_device_info, vfio_group_status, vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap, vfio_irq_info, vfio_region_info,
};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

const TYPE: u32 = VFIO_TYPE as u32;

ioctl_io_nr!(VFIO_GET_API_VERSION, TYPE, VFIO_BASE);
ioctl_io_nr!(VFIO_CHECK_EXTENSION, TYPE, VFIO_BASE + 1);
ioctl_io_nr!(VFIO_SET_IOMMU, TYPE, VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_GET_STATUS, TYPE, VFIO_BASE + 3);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, TYPE, VFIO_BASE + 4);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, TYPE, VFIO_BASE + 6);
ioctl_io_nr!(VFIO_DEVICE_GET_INFO, TYPE, VFIO_BASE + 7);
ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, TYPE, VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, TYPE, VFIO_BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, TYPE, VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, TYPE, VFIO_BASE + 11);
ioctl_io_nr!(VFIO_IOMMU_MAP_DMA, TYPE, VFIO_BASE + 13);
ioctl_io_nr!(VFIO_IOMMU_UNMAP_DMA, TYPE, VFIO_BASE + 14);

/// VFIO_GET_API_VERSION.
pub(super) fn api_version(container: &File) -> io::Result<u32> {
    // SAFETY: the request takes no argument.
    answer(unsafe { ioctl(container, VFIO_GET_API_VERSION()) })
}

/// VFIO_CHECK_EXTENSION: 0 is no.
pub(super) fn check_extension(container: &File, extension: u32) -> io::Result<u32> {
    // SAFETY: the request takes a number.
    answer(unsafe { ioctl_with_val(container, VFIO_CHECK_EXTENSION(), extension.into()) })
}

/// VFIO_SET_IOMMU.
pub(super) fn set_iommu(container: &File, iommu: u32) -> io::Result<()> {
    // SAFETY: the request takes a number.
    answer(unsafe { ioctl_with_val(container, VFIO_SET_IOMMU(), iommu.into()) }).map(drop)
}

/// VFIO_GROUP_GET_STATUS: the flags.
pub(super) fn group_status(group: &File) -> io::Result<u32> {
    let mut status = vfio_group_status { argsz: size_of::<vfio_group_status>() as u32, flags: 0 };
    // SAFETY: `status` is whole and `argsz` is its size: the kernel writes no further.
    answer(unsafe { ioctl_with_mut_ref(group, VFIO_GROUP_GET_STATUS(), &mut status) })?;
    Ok(status.flags)
}

/// VFIO_GROUP_SET_CONTAINER.
pub(super) fn set_container(group: &File, container: &File) -> io::Result<()> {
    // SAFETY: the kernel reads one descriptor number.
    answer(unsafe { ioctl_with_ref(group, VFIO_GROUP_SET_CONTAINER(), &container.as_raw_fd()) }).map(drop)
}

/// VFIO_GROUP_GET_DEVICE_FD: opens the device with this name.
pub(super) fn device(group: &File, name: &str) -> io::Result<File> {
    let name = CString::new(name)?;
    let bytes = name.as_bytes_with_nul();
    // SAFETY: the kernel reads a string that ends with a zero byte.
    let fd =
        unsafe { vmm_sys_util::ioctl::ioctl_with_ptr(group, VFIO_GROUP_GET_DEVICE_FD(), bytes.as_ptr()) };
    answer(fd)?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// VFIO_DEVICE_GET_INFO: the flags.
pub(super) fn device_flags(device: &File) -> io::Result<u32> {
    let mut info = vfio_device_info { argsz: size_of::<vfio_device_info>() as u32, ..Default::default() };
    // SAFETY: `info` is whole and `argsz` is its size: the kernel writes no further.
    answer(unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_GET_INFO(), &mut info) })?;
    Ok(info.flags)
}

/// VFIO_DEVICE_GET_REGION_INFO: fills `reply` with a region's information, and the capabilities if there is room. Its
/// first word holds the size of the whole.
pub(super) fn region_info(device: &File, index: u32, reply: &mut [u64]) -> io::Result<()> {
    let argsz = u32::try_from(size_of_val(reply)).map_err(io::Error::other)?;
    if size_of_val(reply) < size_of::<vfio_region_info>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The request: argsz and no flags, index and no capabilities (little-endian pairs of u32).
    for (word, value) in reply.iter_mut().zip([argsz, index]) {
        *word = u64::from(value);
    }
    // SAFETY: `reply` has `argsz` bytes and the alignment of the structure: the kernel writes no further.
    answer(unsafe { ioctl_with_mut_ptr(device, VFIO_DEVICE_GET_REGION_INFO(), reply.as_mut_ptr()) }).map(drop)
}

/// VFIO_DEVICE_GET_IRQ_INFO: how many interrupts an index has.
pub(super) fn irq_count(device: &File, index: u32) -> io::Result<u32> {
    let mut info = vfio_irq_info { argsz: size_of::<vfio_irq_info>() as u32, index, ..Default::default() };
    // SAFETY: `info` is whole and `argsz` is its size: the kernel writes no further.
    answer(unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) })?;
    Ok(info.count)
}

/// VFIO_DEVICE_SET_IRQS for INTx: gives the action an eventfd. The trigger enables INTx.
pub(super) fn set_intx_eventfd(device: &File, action: u32, eventfd: RawFd) -> io::Result<()> {
    set_intx(device, action | VFIO_IRQ_SET_DATA_EVENTFD, Some(eventfd))
}

/// VFIO_DEVICE_SET_IRQS for INTx: disables it.
pub(super) fn disable_intx(device: &File) -> io::Result<()> {
    set_intx(device, VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_NONE, None)
}

fn set_intx(device: &File, flags: u32, eventfd: Option<RawFd>) -> io::Result<()> {
    /// Bytes of argsz, flags, index, start and count, and the same with one eventfd.
    const FIXED: u32 = 5 * size_of::<u32>() as u32;
    const WITH_EVENTFD: u32 = 6 * size_of::<u32>() as u32;
    let (bytes, count) = if eventfd.is_some() { (WITH_EVENTFD, 1) } else { (FIXED, 0) };
    let request = [bytes, flags, VFIO_PCI_INTX_IRQ_INDEX, 0, count, eventfd.unwrap_or(-1) as u32];
    // SAFETY: `request` is a `vfio_irq_set` of u32 fields with at most one eventfd behind it. `argsz` is its true size, and
    // the kernel only reads it.
    answer(unsafe { ioctl_with_ref(device, VFIO_DEVICE_SET_IRQS(), &request) }).map(drop)
}

/// VFIO_DEVICE_RESET.
pub(super) fn reset(device: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    answer(unsafe { ioctl(device, VFIO_DEVICE_RESET()) }).map(drop)
}

/// VFIO_IOMMU_MAP_DMA: maps `size` bytes at `address` of this process at `iova`, for DMA reads and writes.
///
/// # Safety
/// Devices may write these bytes at any time until they are unmapped. No reference to them may exist.
pub(super) unsafe fn map_dma(
    container: &File,
    iova: u64,
    size: u64,
    address: u64,
    flags: u32,
) -> io::Result<()> {
    let argsz = size_of::<vfio_iommu_type1_dma_map>() as u32;
    let map = vfio_iommu_type1_dma_map { argsz, flags, vaddr: address, iova, size };
    // SAFETY: `map` is whole and only read; the kernel checks and pins the range, and the caller vouches for its use.
    answer(unsafe { ioctl_with_ref(container, VFIO_IOMMU_MAP_DMA(), &map) }).map(drop)
}

/// VFIO_IOMMU_UNMAP_DMA.
pub(super) fn unmap_dma(container: &File, iova: u64, size: u64) -> io::Result<()> {
    let argsz = size_of::<vfio_iommu_type1_dma_unmap>() as u32;
    let mut unmap = vfio_iommu_type1_dma_unmap { argsz, flags: 0, iova, size, ..Default::default() };
    // SAFETY: `unmap` is whole, `argsz` is its size and no flag asks for the data behind it.
    answer(unsafe { ioctl_with_mut_ref(container, VFIO_IOMMU_UNMAP_DMA(), &mut unmap) }).map(drop)
}

fn answer(ret: i32) -> io::Result<u32> {
    u32::try_from(ret).map_err(|_| io::Error::last_os_error())
}
