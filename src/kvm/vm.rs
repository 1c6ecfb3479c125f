//! The ioctls of a VM's descriptor that the router uses.
//!
//! Owns nothing. A VMM whose own type wraps the descriptor implements [`KvmVm`] for that type. No lock: the
//! kernel has its own.

use std::io;

use kvm_bindings::{KvmIrqRouting, kvm_msi};
use kvm_ioctls::{Cap, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::router::Gsi;

/// A VM of KVM: five ioctls of its descriptor.
pub trait KvmVm: Send + Sync {
    /// KVM_CHECK_EXTENSION. Returns 0 if KVM lacks the capability.
    fn check_extension(&self, cap: Cap) -> i32;

    /// KVM_SET_GSI_ROUTING.
    ///
    /// # Errors
    /// The kernel's.
    fn set_gsi_routing(&self, table: &KvmIrqRouting) -> io::Result<()>;

    /// KVM_IRQFD: attaches an eventfd.
    ///
    /// # Errors
    /// The kernel's.
    fn register_irqfd(&self, eventfd: &EventFd, gsi: Gsi) -> io::Result<()>;

    /// KVM_IRQFD with KVM_IRQFD_FLAG_DEASSIGN: detaches an eventfd.
    ///
    /// # Errors
    /// The kernel's.
    fn unregister_irqfd(&self, eventfd: &EventFd, gsi: Gsi) -> io::Result<()>;

    /// KVM_SIGNAL_MSI. Returns the kernel's result: how many interrupt controllers accepted the message.
    ///
    /// # Errors
    /// The kernel's, with its errno.
    fn signal_msi(&self, msi: kvm_msi) -> io::Result<i32>;
}

impl KvmVm for VmFd {
    fn check_extension(&self, cap: Cap) -> i32 {
        self.check_extension_int(cap)
    }

    fn set_gsi_routing(&self, table: &KvmIrqRouting) -> io::Result<()> {
        Ok(self.set_gsi_routing(table)?)
    }

    fn register_irqfd(&self, eventfd: &EventFd, gsi: Gsi) -> io::Result<()> {
        Ok(self.register_irqfd(eventfd, gsi.0)?)
    }

    fn unregister_irqfd(&self, eventfd: &EventFd, gsi: Gsi) -> io::Result<()> {
        Ok(self.unregister_irqfd(eventfd, gsi.0)?)
    }

    fn signal_msi(&self, msi: kvm_msi) -> io::Result<i32> {
        Ok(self.signal_msi(msi)?)
    }
}
