//! The container: one IOMMU address space for all passed-through devices, indexed by guest-physical address.
//!
//! Owns the descriptors of the container and its groups, and the DMA mappings of RAM, which its drop removes. Those of BARs
//! are in [`peers`](super::peers). Devices keep
//! the container alive. No lock is held across a system call.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::VmFd;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE1v2_IOMMU,
};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::coherency::Coherency;
use super::ioctl;
use super::peers::PeerSpace;
use super::sysfs::HostDevice;
use crate::error::{Context, Error, Result};
use crate::memory::FileMapping;

const CONTROL: &str = "/dev/vfio/vfio";
const API_VERSION: u32 = 0;

/// The container with its groups.
#[derive(Debug)]
pub struct Container {
    /// Dropped first: KVM holds the groups. `None` if the devices cannot access guest memory.
    _coherency: Option<Coherency>,
    file: File,
    groups: BTreeMap<u32, File>,
    /// Guest-physical start and size of each mapping.
    mapped: Mutex<Vec<(u64, u64)>>,
}

impl Container {
    /// Opens the container and adds the groups of the devices, which are passed through to `vm`.
    ///
    /// # Errors
    /// [`Error::Host`], with the remedy if known: VFIO is not loaded, a group is in use or not accessible, or the
    /// host's IOMMU does not remap interrupts.
    pub fn open(devices: &[HostDevice], vm: &VmFd) -> Result<Arc<Self>> {
        Self::with(devices, || Coherency::new(vm).map(Some))
    }

    /// A container for one device that is not passed through. The device can access no memory.
    ///
    /// # Errors
    /// As [`Container::open`].
    pub fn isolated(device: &HostDevice) -> Result<Arc<Self>> {
        Self::with(std::slice::from_ref(device), || Ok(None))
    }

    fn with(
        devices: &[HostDevice],
        coherency: impl FnOnce() -> Result<Option<Coherency>>,
    ) -> Result<Arc<Self>> {
        let file = open(CONTROL).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refused(CONTROL, "VFIO is not there; load it: modprobe vfio-pci"),
            _ => not_opened(CONTROL, error),
        })?;
        let version = ioctl::api_version(&file).context("reading the VFIO API version")?;
        if version != API_VERSION {
            return Err(refused(
                CONTROL,
                format!("its API has version {version}, and {API_VERSION} is needed"),
            ));
        }
        if !matches!(ioctl::check_extension(&file, VFIO_TYPE1v2_IOMMU), Ok(1..)) {
            return Err(refused(
                CONTROL,
                "its IOMMU driver is not there; load it: modprobe vfio_iommu_type1",
            ));
        }
        let coherency = coherency()?;
        let mut groups = BTreeMap::new();
        for device in devices {
            if groups.contains_key(&device.group) {
                continue;
            }
            let group = open_group(device)?;
            let given = ioctl::set_container(&group, &file);
            // The IOMMU type can be set once the container has a group.
            let given = if groups.is_empty() {
                given.and_then(|()| ioctl::set_iommu(&file, VFIO_TYPE1v2_IOMMU))
            } else {
                given
            };
            given.map_err(|error| not_isolated(device, error))?;
            coherency.iter().try_for_each(|coherency| coherency.add(&group))?;
            groups.insert(device.group, group);
        }
        Ok(Arc::new(Self { _coherency: coherency, file, groups, mapped: Mutex::default() }))
    }

    /// Maps all guest memory for DMA at its guest-physical addresses. The process never unmaps RAM, and accesses it
    /// by volatile access only.
    ///
    /// # Errors
    /// [`Error::Host`], most often because of the limit of locked memory.
    pub fn map(&self, memory: &GuestMemoryMmap) -> Result<()> {
        for region in memory.iter() {
            let (start, size) = (region.start_addr().0, region.len());
            let address = region.as_ptr() as u64;
            let flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
            // SAFETY: guest memory is only used through volatile access, because the guest may write it at any time.
            // The kernel pins it while it is mapped.
            unsafe { ioctl::map_dma(&self.file, start, size, address, flags) }.map_err(|error| {
                let cure = match Errno::from_io_error(&error) {
                    Some(Errno::NOMEM) => {
                        "; the limit of locked memory is too small: raise it (ulimit -l unlimited)"
                    }
                    _ => "",
                };
                let context = format!("mapping {size:#x} bytes of guest memory at {start:#x} for DMA");
                Error::host(context, format!("{error}{cure}"))
            })?;
            self.mapped.lock().unwrap_or_else(PoisonError::into_inner).push((start, size));
        }
        Ok(())
    }

    /// Opens a device and returns its descriptor.
    ///
    /// # Errors
    /// [`Error::Host`] if the device is not in a group of the container, or is in use by another process.
    pub fn device(&self, device: &HostDevice) -> Result<File> {
        let name = device.address.to_string();
        let context = || format!("opening device {name}");
        let group =
            self.groups.get(&device.group).ok_or_else(|| Error::host(context(), "its group is not open"))?;
        ioctl::device(group, &name).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => Error::host(context(), "it is in use by another process"),
            _ => Error::host(context(), error),
        })
    }
}

impl PeerSpace for Container {
    fn map_peer(&self, guest: u64, memory: &FileMapping, part: Range<usize>) -> io::Result<()> {
        let region = memory.region();
        if part.is_empty() || part.end > region.size() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let address = region.as_ptr().wrapping_add(part.start) as u64;
        let flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
        // SAFETY: the range lies in the mapping of a BAR, which is only used through volatile access. The kernel resolves
        // the addresses of the device's pages now, and needs no memory of this process later.
        unsafe { ioctl::map_dma(&self.file, guest, part.len() as u64, address, flags) }
    }

    fn unmap_peer(&self, guest: u64, size: u64) -> io::Result<()> {
        ioctl::unmap_dma(&self.file, guest, size)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let mapped = self.mapped.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (start, size) in mapped.drain(..) {
            if let Err(error) = ioctl::unmap_dma(&self.file, start, size) {
                tracing::warn!(
                    "cannot unmap {size:#x} bytes of guest memory at {start:#x} from the IOMMU: {error}"
                );
            }
        }
    }
}

/// Opens a device's group, which must be viable.
fn open_group(device: &HostDevice) -> Result<File> {
    let path = format!("/dev/vfio/{}", device.group);
    let group = open(&path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::BUSY) => {
            let problem =
                format!("device {} is in use by another process (fuser -v {path} names it)", device.address);
            refused(&path, problem)
        }
        Some(Errno::NOENT) => refused(&path, "the group is not there; load VFIO: modprobe vfio-pci"),
        _ => not_opened(&path, error),
    })?;
    let status = ioctl::group_status(&group).context(format!("reading the status of {path}"))?;
    if status & VFIO_GROUP_FLAGS_VIABLE == 0 {
        let problem = "the host uses a device of the IOMMU group; bind all of them to vfio-pci";
        return Err(refused(&path, problem));
    }
    Ok(group)
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn refused(path: &str, problem: impl Into<String>) -> Error {
    Error::host(path, problem.into())
}

fn not_opened(path: &str, error: io::Error) -> Error {
    let cure = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root, or give yourself the file (chown)",
        _ => "",
    };
    refused(path, format!("{error}{cure}"))
}

fn not_isolated(device: &HostDevice, error: io::Error) -> Error {
    let cure = match Errno::from_io_error(&error) {
        Some(Errno::PERM) => {
            "; the host's IOMMU does not remap interrupts: turn that on in the firmware, or accept that a guest can \
             forge interrupts (modprobe vfio_iommu_type1 allow_unsafe_interrupts=1)"
        }
        _ => "",
    };
    Error::host(format!("attaching device {} to the IOMMU", device.address), format!("{error}{cure}"))
}
