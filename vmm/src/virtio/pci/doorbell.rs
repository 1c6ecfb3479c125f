//! The queues' doorbells (virtio 1.2 §4.1.4.4): ioeventfds, which KVM signals without an exit to the VMM.
//!
//! They follow the BAR. A doorbell that KVM refuses is trapped as a BAR access, and works as well.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::layout::{DOORBELL_BYTES, DOORBELLS};

/// The doorbells of a device.
#[derive(Debug)]
pub struct Doorbells {
    vm: Option<Arc<VmFd>>,
    /// The registered ioeventfds: queue and address.
    registered: Mutex<Vec<(usize, u64)>>,
}

impl Doorbells {
    /// Doorbells as ioeventfds.
    #[must_use]
    pub fn in_kernel(vm: Arc<VmFd>) -> Self {
        Self { vm: Some(vm), registered: Mutex::default() }
    }

    /// Doorbells as BAR accesses.
    #[must_use]
    pub fn by_access() -> Self {
        Self { vm: None, registered: Mutex::default() }
    }

    /// Moves the doorbells with the BAR, or removes them.
    pub fn set_address(&self, bar: Option<u64>, eventfds: &[EventFd]) {
        let Some(vm) = &self.vm else { return };
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.retain(|(queue, address)| {
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
            // No datamatch: the address selects the queue.
            match vm.register_ioevent(eventfd, &IoEventAddress::Mmio(address), NoDatamatch) {
                Ok(()) => registered.push((queue, address)),
                Err(error) => tracing::warn!(
                    "cannot register the doorbell at {address:#x}, it exits to the VMM: {error}"
                ),
            }
        }
    }
}
