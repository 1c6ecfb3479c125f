//! KVM's VFIO device (`Documentation/virt/kvm/devices/vfio.rst`): tells KVM the guest's IOMMU groups.
//!
//! If an IOMMU cannot enforce cache coherency, KVM then honours the guest's memory types and cache flushes. Without
//! them, a device with non-coherent DMA reads stale memory. The registration lasts as long as this object.

use std::fs::File;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_VFIO,
};
use kvm_ioctls::{DeviceFd, VmFd};

use crate::error::{Context, Result};

/// The VFIO device of a VM. A VM has one at most.
#[derive(Debug)]
pub(super) struct Coherency(DeviceFd);

impl Coherency {
    pub(super) fn new(vm: &VmFd) -> Result<Self> {
        let mut device = kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_VFIO, fd: 0, flags: 0 };
        vm.create_device(&mut device).context("creating KVM's VFIO device").map(Self)
    }

    /// Adds a group.
    pub(super) fn add(&self, group: &File) -> Result<()> {
        let descriptor = group.as_raw_fd();
        let attribute = kvm_device_attr {
            flags: 0,
            group: KVM_DEV_VFIO_FILE,
            attr: KVM_DEV_VFIO_FILE_ADD.into(),
            // The kernel reads the descriptor number from this address.
            addr: (&raw const descriptor) as u64,
        };
        self.0.set_device_attr(&attribute).context("adding an IOMMU group to KVM's VFIO device")
    }
}
