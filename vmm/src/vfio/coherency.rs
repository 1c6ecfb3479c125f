//! KVM's VFIO device (KVM API, `Documentation/virt/kvm/devices/vfio.rst`): KVM is told which IOMMU groups the guest has.
//!
//! On hosts whose IOMMU cannot make all DMA coherent with the caches, KVM then honours the guest's own memory types
//! and cache flushes, without which such a device reads stale memory. It holds for as long as this is held.

use std::fs::File;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_VFIO,
};
use kvm_ioctls::{DeviceFd, VmFd};

use crate::error::{Context, Result};

/// The device of one VM; a VM has one at most.
#[derive(Debug)]
pub(super) struct Coherency(DeviceFd);

impl Coherency {
    pub(super) fn new(vm: &VmFd) -> Result<Self> {
        let mut device = kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_VFIO, fd: 0, flags: 0 };
        vm.create_device(&mut device).context("creating KVM's VFIO device").map(Self)
    }

    /// Adds the devices of a group.
    pub(super) fn add(&self, group: &File) -> Result<()> {
        let descriptor = group.as_raw_fd();
        let attribute = kvm_device_attr {
            flags: 0,
            group: KVM_DEV_VFIO_FILE,
            attr: KVM_DEV_VFIO_FILE_ADD.into(),
            // The kernel reads the number from there.
            addr: (&raw const descriptor) as u64,
        };
        self.0.set_device_attr(&attribute).context("telling KVM of an IOMMU group")
    }
}
