//! VFIO_DEVICE_GET_IRQ_INFO and VFIO_DEVICE_SET_IRQS for MSI and MSI-X (linux/vfio.h), and reads and writes
//! of the device's file.
//!
//! [`IrqCalls`] has the backends' calls on a device's descriptor. A [`File`] makes system calls, and a fake
//! follows the kernel's rules. This module owns the `unsafe` of the two ioctls. It has no state and no lock.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_TYPE, vfio_irq_info,
};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ptr};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, VFIO_TYPE as u32, VFIO_BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE as u32, VFIO_BASE + 10);

/// An interrupt index of a VFIO PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    Msi,
    Msix,
}

impl Index {
    fn number(self) -> u32 {
        match self {
            Self::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
        }
    }
}

/// The result of VFIO_DEVICE_GET_IRQ_INFO for an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IrqInfo {
    /// How many vectors the device has.
    pub(super) vectors: u32,
    /// A vector can be allocated while others are in use: VFIO_IRQ_INFO_NORESIZE is clear (Linux 6.5 and
    /// later).
    pub(super) dynamic: bool,
}

/// No eventfd, in VFIO_IRQ_SET_DATA_EVENTFD.
pub(super) const NO_FD: RawFd = -1;

/// The backends' calls on a VFIO device's descriptor.
pub(super) trait IrqCalls: fmt::Debug + Send {
    /// VFIO_DEVICE_GET_IRQ_INFO.
    fn info(&self, index: Index) -> io::Result<IrqInfo>;

    /// VFIO_DEVICE_SET_IRQS with ACTION_TRIGGER and DATA_EVENTFD, for the vectors from `start` on. Returns
    /// the kernel's result: 0, or the number of vectors that the host can give if the call was to enable the
    /// index for more.
    fn set_eventfds(&self, index: Index, start: u32, eventfds: &[RawFd]) -> io::Result<u32>;

    /// VFIO_DEVICE_SET_IRQS with ACTION_TRIGGER, DATA_NONE and count 0: disables the index.
    fn disable(&self, index: Index) -> io::Result<()>;

    /// Reads all of `data` at an offset into the descriptor's file.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at an offset into the descriptor's file.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
}

impl IrqCalls for File {
    fn info(&self, index: Index) -> io::Result<IrqInfo> {
        let mut info = vfio_irq_info {
            argsz: size_of::<vfio_irq_info>() as u32,
            index: index.number(),
            ..Default::default()
        };
        // SAFETY: `info` is a whole `vfio_irq_info` and `argsz` is its size. The kernel writes no further.
        let ret = unsafe { ioctl_with_mut_ref(self, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) };
        answer(ret)?;
        Ok(IrqInfo { vectors: info.count, dynamic: info.flags & VFIO_IRQ_INFO_NORESIZE == 0 })
    }

    fn set_eventfds(&self, index: Index, start: u32, eventfds: &[RawFd]) -> io::Result<u32> {
        set_irqs(self, index, VFIO_IRQ_SET_DATA_EVENTFD, start, eventfds)
    }

    fn disable(&self, index: Index) -> io::Result<()> {
        set_irqs(self, index, VFIO_IRQ_SET_DATA_NONE, 0, &[]).map(drop)
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(data, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }
}

/// `struct vfio_irq_set` without its data: argsz, flags, index, start, count.
const HEADER_WORDS: usize = 5;

/// Makes one VFIO_DEVICE_SET_IRQS call.
fn set_irqs(device: &File, index: Index, data_type: u32, start: u32, eventfds: &[RawFd]) -> io::Result<u32> {
    let words = eventfds.len().saturating_add(HEADER_WORDS);
    let bytes = words.saturating_mul(size_of::<u32>()) as u32;
    let flags = data_type | VFIO_IRQ_SET_ACTION_TRIGGER;
    let mut request = Vec::with_capacity(words);
    request.extend([bytes, flags, index.number(), start, eventfds.len() as u32]);
    request.extend(eventfds.iter().map(|fd| *fd as u32));
    // SAFETY: `request` is a `vfio_irq_set` of u32 fields followed by its data, `argsz` is its true size,
    // and the kernel only reads it.
    let ret = unsafe { ioctl_with_ptr(device, VFIO_DEVICE_SET_IRQS(), request.as_ptr()) };
    answer(ret)
}

fn answer(ret: i32) -> io::Result<u32> {
    u32::try_from(ret).map_err(|_| io::Error::last_os_error())
}
