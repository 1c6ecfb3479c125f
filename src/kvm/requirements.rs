//! The capabilities that the router needs of KVM. They are checked once, when the router is made.
//!
//! Plain functions over the VM's descriptor. No lock.

use kvm_bindings::kvm_msi;
use kvm_ioctls::Cap;
use rustix::io::Errno;

use super::{Irqchip, KvmVm};
use crate::apic::DestinationIds;

/// A capability that KVM lacks, or that is not enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MissingCapability {
    /// There is no routing table, or it has no room for messages.
    #[error("KVM has no routing table for messages (KVM_CAP_IRQ_ROUTING)")]
    IrqRouting,
    /// KVM cannot attach eventfds.
    #[error("KVM cannot attach eventfds (KVM_CAP_IRQFD)")]
    Irqfd,
    /// Userspace cannot inject a message.
    #[error("KVM cannot inject a message from userspace (KVM_CAP_SIGNAL_MSI)")]
    SignalMsi,
    /// The guest was told of destinations with more than 8 bits, but this VM ignores the upper bits. Each
    /// message to such a destination would interrupt the wrong vCPU.
    #[error(
        "32-bit destinations are not enabled for this VM (KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS)"
    )]
    X2apicApi,
}

/// Checks every capability, and returns how many messages the routing table has room for.
pub(super) fn check(
    vm: &(impl KvmVm + ?Sized),
    irqchip: Irqchip,
    ids: DestinationIds,
) -> Result<usize, MissingCapability> {
    let routes = u32::try_from(vm.check_extension(Cap::IrqRouting)).unwrap_or(0);
    let capacity = irqchip.message_routes(routes);
    if capacity == 0 {
        return Err(MissingCapability::IrqRouting);
    }
    if vm.check_extension(Cap::Irqfd) <= 0 {
        return Err(MissingCapability::Irqfd);
    }
    if vm.check_extension(Cap::SignalMsi) <= 0 {
        return Err(MissingCapability::SignalMsi);
    }
    match ids {
        DestinationIds::Bits8 => Ok(capacity),
        DestinationIds::Extended | DestinationIds::Bits32 if takes_32_bit_destinations(vm) => Ok(capacity),
        DestinationIds::Extended | DestinationIds::Bits32 => Err(MissingCapability::X2apicApi),
    }
}

/// Whether KVM_CAP_X2APIC_API is enabled. KVM_CHECK_EXTENSION tells only whether it is supported.
///
/// With 32-bit destinations enabled, KVM refuses a message if the low byte of its upper address is not 0.
/// Otherwise KVM accepts this message for logical destination 0, which is no APIC, and interrupts no vCPU.
fn takes_32_bit_destinations(vm: &(impl KvmVm + ?Sized)) -> bool {
    const LOGICAL: u32 = 1 << 2;
    let probe =
        kvm_msi { address_lo: 0xfee0_0000 | LOGICAL, address_hi: 1, data: 0x20, ..Default::default() };
    vm.signal_msi(probe).is_err_and(|errno| errno.raw_os_error() == Some(Errno::INVAL.raw_os_error()))
}
