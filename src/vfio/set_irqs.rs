//! VFIO_DEVICE_GET_IRQ_INFO and VFIO_DEVICE_SET_IRQS for MSI and MSI-X (linux/vfio.h), as the kernel has them.
//!
//! Owns this module's `unsafe`: three ioctls on a VFIO device's descriptor. Each request is one call with one
//! meaning. Vectors are set one at a time once they are on, because the kernel takes down a whole block where
//! one of it fails.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_TYPE, vfio_irq_info,
};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ptr};
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, VFIO_TYPE as u32, VFIO_BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE as u32, VFIO_BASE + 10);

/// Which of a device's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    Msi,
    Msix,
}

/// What the host says of a device's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IrqInfo {
    /// How many the device has.
    pub(super) vectors: u32,
    /// Vectors can be requested one by one while the others are on (Linux 6.5 and later, where the interrupt domain
    /// can; VFIO_IRQ_INFO_NORESIZE is not set).
    pub(super) dynamic: bool,
}

/// A VFIO device's MSI or MSI-X, as its descriptor gives access to it.
#[derive(Debug)]
pub(super) struct Irqs {
    pub(super) device: File,
    pub(super) index: Index,
}

/// `struct vfio_irq_set` without its data: argsz, flags, index, start, count.
const HEADER_WORDS: usize = 5;

/// No eventfd.
const NO_FD: u32 = -1i32 as u32;

impl Irqs {
    fn index(&self) -> u32 {
        match self.index {
            Index::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Index::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
        }
    }

    pub(super) fn info(&self) -> io::Result<IrqInfo> {
        let mut info = vfio_irq_info {
            argsz: size_of::<vfio_irq_info>() as u32,
            index: self.index(),
            ..Default::default()
        };
        // SAFETY: `info` is a whole `vfio_irq_info` whose `argsz` is its size: the kernel writes no further.
        let ret = unsafe { ioctl_with_mut_ref(&self.device, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) };
        answer(ret)?;
        Ok(IrqInfo { vectors: info.count, dynamic: info.flags & VFIO_IRQ_INFO_NORESIZE == 0 })
    }

    /// Turns them on with host interrupts for the first `vectors` vectors and none of them requested.
    ///
    /// `Ok(None)` is success; `Ok(Some(n))` says that the host has interrupts for `n` vectors only, and they are
    /// still off.
    pub(super) fn enable_without_eventfds(&self, vectors: u32) -> io::Result<Option<u32>> {
        let fits = self.set(VFIO_IRQ_SET_DATA_EVENTFD, 0, vectors, &vec![NO_FD; vectors as usize])?;
        Ok((fits > 0).then_some(fits))
    }

    /// Gives one vector an eventfd, or takes it away.
    pub(super) fn set_eventfd(&self, vector: u32, eventfd: Option<&EventFd>) -> io::Result<()> {
        let fd = eventfd.map_or(NO_FD, |eventfd| eventfd.as_raw_fd() as u32);
        match self.set(VFIO_IRQ_SET_DATA_EVENTFD, vector, 1, &[fd])? {
            0 => Ok(()),
            // While they are on the kernel answers 0 or an error; a count would mean that they were off.
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Turns them off and frees every host interrupt.
    pub(super) fn disable(&self) -> io::Result<()> {
        self.set(VFIO_IRQ_SET_DATA_NONE, 0, 0, &[]).map(drop)
    }

    /// One VFIO_DEVICE_SET_IRQS; answers what the kernel returned, 0 or a count.
    fn set(&self, data_type: u32, start: u32, count: u32, data: &[u32]) -> io::Result<u32> {
        let bytes = data.len().saturating_add(HEADER_WORDS).saturating_mul(size_of::<u32>());
        let flags = data_type | VFIO_IRQ_SET_ACTION_TRIGGER;
        let mut request = Vec::with_capacity(data.len().saturating_add(HEADER_WORDS));
        request.extend([bytes as u32, flags, self.index(), start, count]);
        request.extend(data);
        // SAFETY: `request` is a `vfio_irq_set` of u32 fields followed by its data, `argsz` is its true size,
        // and the kernel only reads it.
        let ret = unsafe { ioctl_with_ptr(&self.device, VFIO_DEVICE_SET_IRQS(), request.as_ptr()) };
        answer(ret)
    }
}

fn answer(ret: i32) -> io::Result<u32> {
    u32::try_from(ret).map_err(|_| io::Error::last_os_error())
}
