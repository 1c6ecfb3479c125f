//! KVM memory slots: which host memory the guest sees at which guest-physical address.
//!
//! [`Slots`] hands out slot numbers, reuses them, and is the only caller of KVM_SET_USER_MEMORY_REGION. A
//! [`Slot`] is one mapping: it keeps the host memory alive and takes the mapping out of the guest when it is
//! dropped, so that host memory is never unmapped under a running guest. One lock, for the numbers alone; it
//! is held for no system call.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VmFd};
use vm_memory::{GuestAddress, MmapRegion};

use crate::error::{Context, Error, Result};

/// The memory slots of a VM.
#[derive(Debug)]
pub struct Slots {
    vm: Arc<VmFd>,
    numbers: Mutex<Numbers>,
}

/// How the guest reaches a slot's memory without an exit. Whatever else it does there exits, as with a device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads and writes.
    ReadWrite,
    /// It reads, and may execute what it finds. Of an instruction that reads and writes, a locked one too, KVM does the
    /// read, and the write exits. Bits that KVM sets in page tables for a guest are not set here.
    ReadOnly,
}

impl Access {
    fn flags(self) -> u32 {
        match self {
            Self::ReadWrite => 0,
            Self::ReadOnly => KVM_MEM_READONLY,
        }
    }
}

/// Slot numbers: those below `next` that are free again, and the first that was never used.
#[derive(Debug)]
struct Numbers {
    free: BTreeSet<u32>,
    next: u32,
    limit: u32,
}

impl Numbers {
    fn take(&mut self) -> Option<u32> {
        self.free.pop_first().or_else(|| {
            (self.next < self.limit).then(|| {
                let number = self.next;
                self.next = self.next.saturating_add(1);
                number
            })
        })
    }
}

impl Slots {
    /// The slots of a VM that has none in use.
    #[must_use]
    pub fn new(vm: Arc<VmFd>) -> Arc<Self> {
        let limit = u32::try_from(vm.check_extension_int(Cap::NrMemslots)).unwrap_or(0);
        let numbers = Mutex::new(Numbers { free: BTreeSet::new(), next: 0, limit });
        Arc::new(Self { vm, numbers })
    }

    /// Maps `part` (byte offsets, whole pages) of `host` into the guest at `guest`, for this access.
    ///
    /// # Errors
    /// The host's, when there is no slot left or KVM refuses the range (it overlaps another slot, or is not
    /// in pages) or the access (it has no KVM_CAP_READONLY_MEM).
    pub fn map(
        self: &Arc<Self>,
        guest: GuestAddress,
        host: Arc<MmapRegion>,
        part: Range<usize>,
        access: Access,
    ) -> Result<Slot> {
        let context = || format!("mapping {:#x} bytes into the guest at {:#x}", part.len(), guest.0);
        if part.is_empty() || part.end > host.size() {
            return Err(Error::host(context(), "the part lies outside of its host memory"));
        }
        let number = self.numbers.lock().unwrap_or_else(PoisonError::into_inner).take();
        let number = number.ok_or_else(|| Error::host(context(), "no KVM memory slot is left"))?;
        let address = host.as_ptr().wrapping_add(part.start);
        // From here on the drop of `slot` gives the number back.
        let mut slot = Slot { slots: Arc::clone(self), number, guest, size: 0, access, host };
        slot.set(part.len() as u64, address as u64).context(context())?;
        slot.size = part.len() as u64;
        Ok(slot)
    }
}

/// One mapping of host memory into the guest; dropping it takes the mapping away.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    number: u32,
    guest: GuestAddress,
    /// Bytes that the guest sees; 0 until KVM has taken the slot.
    size: u64,
    access: Access,
    /// Owns the host memory for as long as the guest sees it.
    host: Arc<MmapRegion>,
}

impl Slot {
    /// Where the guest sees it.
    #[must_use]
    pub fn guest(&self) -> Range<u64> {
        self.guest.0..self.guest.0.saturating_add(self.size)
    }

    /// The host memory behind it.
    #[must_use]
    pub fn host(&self) -> &Arc<MmapRegion> {
        &self.host
    }

    fn set(&self, memory_size: u64, userspace_addr: u64) -> std::result::Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: self.number,
            flags: self.access.flags(),
            guest_phys_addr: self.guest.0,
            memory_size,
            userspace_addr,
        };
        // SAFETY: either a removal (size 0), or host memory that `self` owns and that stays mapped until
        // `drop` has taken the slot out of the guest. The guest may read and write it at any time: it is only used
        // through volatile and atomic access.
        unsafe { self.slots.vm.set_user_memory_region(region) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let removed = if self.size == 0 { Ok(()) } else { self.set(0, 0) };
        match removed {
            Ok(()) => {
                self.slots.numbers.lock().unwrap_or_else(PoisonError::into_inner).free.insert(self.number);
            }
            Err(error) => {
                // The guest would go on using memory that is about to be unmapped: keep the memory and the
                // number.
                tracing::error!("memory slot {} cannot be removed: {error}", self.number);
                std::mem::forget(Arc::clone(&self.host));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_lowest_first_and_end() {
        let mut numbers = Numbers { free: BTreeSet::new(), next: 0, limit: 3 };
        assert_eq!(
            [numbers.take(), numbers.take(), numbers.take(), numbers.take()],
            [Some(0), Some(1), Some(2), None]
        );
        numbers.free.extend([2, 1]);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(1), Some(2), None]);
    }
}
