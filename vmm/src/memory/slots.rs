//! KVM memory slots: host memory by guest-physical address.
//!
//! [`Slots`] allocates slot numbers and is the only caller of KVM_SET_USER_MEMORY_REGION. A [`Slot`] is one mapping.
//! It keeps the host memory alive, and its drop removes the mapping from the guest first. Host memory is therefore
//! never unmapped under a running guest. One lock protects the numbers, and is not held across a system call.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VmFd};
use vm_memory::{GuestAddress, MmapRegion};

use super::mmap::FileMapping;
use crate::error::{Context, Error, Result};

/// Host memory that a slot shows to the guest.
#[derive(Clone, Debug)]
pub enum HostMemory {
    /// Memory of the VMM: RAM, or copies of registers.
    Own(Arc<MmapRegion>),
    /// A file, such as a device's BAR.
    File(Arc<FileMapping>),
}

impl HostMemory {
    /// The mapped bytes.
    #[must_use]
    pub fn region(&self) -> &MmapRegion {
        match self {
            Self::Own(region) => region,
            Self::File(mapping) => mapping.region(),
        }
    }
}

impl From<Arc<MmapRegion>> for HostMemory {
    fn from(region: Arc<MmapRegion>) -> Self {
        Self::Own(region)
    }
}

impl From<Arc<FileMapping>> for HostMemory {
    fn from(mapping: Arc<FileMapping>) -> Self {
        Self::File(mapping)
    }
}

/// The memory slots of a VM.
#[derive(Debug)]
pub struct Slots {
    vm: Arc<VmFd>,
    numbers: Mutex<Numbers>,
}

/// The guest's access to a slot without an exit. Any other access exits, as with a device register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read and execute. For a read-modify-write instruction, KVM performs the read, and the write exits. KVM does
    /// not set accessed and dirty bits of guest page tables here.
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

/// Slot numbers: the free ones below `next`, and the first unused one.
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
    /// The slots of a VM that uses none yet.
    #[must_use]
    pub fn new(vm: Arc<VmFd>) -> Arc<Self> {
        let limit = u32::try_from(vm.check_extension_int(Cap::NrMemslots)).unwrap_or(0);
        let numbers = Mutex::new(Numbers { free: BTreeSet::new(), next: 0, limit });
        Arc::new(Self { vm, numbers })
    }

    /// Maps `part` (byte offsets, whole pages) of `host` into the guest at `guest`, for this access.
    ///
    /// # Errors
    /// [`Error::Host`] if no slot is left or KVM refuses the mapping. KVM refuses ranges that overlap a slot or are
    /// not page-aligned, and read-only access without KVM_CAP_READONLY_MEM.
    pub fn map(
        self: &Arc<Self>,
        guest: GuestAddress,
        host: impl Into<HostMemory>,
        part: Range<usize>,
        access: Access,
    ) -> Result<Slot> {
        let host = host.into();
        let context = || format!("mapping {:#x} bytes into the guest at {:#x}", part.len(), guest.0);
        if part.is_empty() || part.end > host.region().size() {
            return Err(Error::host(context(), "the range lies outside of the host memory"));
        }
        let number = self.numbers.lock().unwrap_or_else(PoisonError::into_inner).take();
        let number = number.ok_or_else(|| Error::host(context(), "no KVM memory slot is left"))?;
        let address = host.region().as_ptr().wrapping_add(part.start);
        // From here on, dropping `slot` frees the number.
        let mut slot = Slot { slots: Arc::clone(self), number, guest, size: 0, access, host };
        slot.set(part.len() as u64, address as u64).context(context())?;
        slot.size = part.len() as u64;
        Ok(slot)
    }
}

/// One mapping of host memory into the guest. Dropping it removes the mapping.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    number: u32,
    guest: GuestAddress,
    /// Bytes that the guest sees. 0 until KVM has accepted the slot.
    size: u64,
    access: Access,
    /// Keeps the host memory alive while the guest sees it.
    host: HostMemory,
}

impl Slot {
    /// The guest-physical range.
    #[must_use]
    pub fn guest(&self) -> Range<u64> {
        self.guest.0..self.guest.0.saturating_add(self.size)
    }

    fn set(&self, memory_size: u64, userspace_addr: u64) -> std::result::Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: self.number,
            flags: self.access.flags(),
            guest_phys_addr: self.guest.0,
            memory_size,
            userspace_addr,
        };
        // SAFETY: `size` is 0, which removes the slot, or the host memory belongs to `self` and stays mapped until
        // `drop` has removed the slot. The guest may access it at any time, so it is only used through volatile and
        // atomic access.
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
                // The guest would access unmapped memory. Leak the memory and the number instead.
                tracing::error!("memory slot {} cannot be removed: {error}", self.number);
                std::mem::forget(self.host.clone());
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
