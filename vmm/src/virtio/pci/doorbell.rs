//! The queues' doorbells on the bus (virtio 1.2 §4.1.4.4): ioeventfds, which the kernel writes without an exit to us.
//!
//! They follow the BAR. What the kernel does not take (none given, an ioeventfd that it refuses) comes as an access of
//! the BAR, and is as good.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::layout::{DOORBELL_BYTES, DOORBELLS};

/// Where the doorbells are.
#[derive(Debug)]
pub struct Doorbells {
    vm: Option<Arc<VmFd>>,
    /// Those that the kernel has taken: queue and address.
    taken: Mutex<Vec<(usize, u64)>>,
}

impl Doorbells {
    /// The kernel takes the doorbells.
    #[must_use]
    pub fn in_kernel(vm: Arc<VmFd>) -> Self {
        Self { vm: Some(vm), taken: Mutex::default() }
    }

    /// Every doorbell is an access of the BAR.
    #[must_use]
    pub fn by_access() -> Self {
        Self { vm: None, taken: Mutex::default() }
    }

    /// The BAR is at this address now, or nowhere.
    pub fn place(&self, bar: Option<u64>, eventfds: &[EventFd]) {
        let Some(vm) = &self.vm else { return };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|(queue, address)| {
            let Some(eventfd) = eventfds.get(*queue) else { return false };
            let removed = vm.unregister_ioevent(eventfd, &IoEventAddress::Mmio(*address), NoDatamatch);
            if let Err(error) = removed {
                tracing::warn!("the doorbell at {address:#x} cannot be removed: {error}");
                return true;
            }
            false
        });
        let Some(first) = bar.and_then(|bar| bar.checked_add(DOORBELLS)) else { return };
        for (queue, eventfd) in eventfds.iter().enumerate() {
            let address = (queue as u64).saturating_mul(DOORBELL_BYTES.into()).saturating_add(first);
            // Of any width and value: what the driver writes is only which queue it means.
            match vm.register_ioevent(eventfd, &IoEventAddress::Mmio(address), NoDatamatch) {
                Ok(()) => taken.push((queue, address)),
                Err(error) => tracing::warn!("the doorbell at {address:#x} costs an exit: {error}"),
            }
        }
    }
}
