//! One virtqueue (virtio 1.2 §2.6, §2.7): its registers, and the split ring of an enabled queue, which the
//! virtio-queue crate implements.
//!
//! Invariant: the areas of a ring are aligned and lie in RAM. The driver may write any contents at any time.

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Error as RingError, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// "No vector" in the vector registers (virtio 1.2 §4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// Index of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueIndex(pub u16);

/// Number of entries of a queue: a power of two, 1 to 32768.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSize(u16);

impl QueueSize {
    /// Two to the power of `exponent`, at most 15.
    #[must_use]
    pub const fn two_to_the(exponent: u8) -> Self {
        Self(1 << if exponent < 15 { exponent } else { 15 })
    }

    /// The number of entries.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The guest-physical addresses of a queue's three areas (virtio 1.2 §2.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Areas {
    /// Descriptor area.
    pub descriptors: u64,
    /// Driver area: the available ring.
    pub driver: u64,
    /// Device area: the used ring.
    pub device: u64,
}

/// The driver's queue is invalid.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// An area is misaligned or not in RAM.
    #[error("the areas of a queue of {size} entries are misaligned or not in RAM: {areas:x?}")]
    Areas {
        /// The queue's size.
        size: u16,
        /// The areas that the driver set.
        areas: Areas,
    },
    /// The contents of the ring are invalid.
    #[error("the ring is broken: {0}")]
    Ring(#[from] RingError),
}

/// One request: a chain of buffers. At most as many descriptors are followed as the queue has entries.
#[derive(Debug)]
pub struct Request<'m> {
    chain: DescriptorChain<&'m GuestMemoryMmap>,
    memory: &'m GuestMemoryMmap,
    max_size: usize,
}

impl<'m> Request<'m> {
    /// Guest memory. The buffers may lie outside of it.
    #[must_use]
    pub fn memory(&self) -> &'m GuestMemoryMmap {
        self.memory
    }

    /// The device-writable buffers in order: address and length in bytes. An invalid chain ends early.
    pub fn writable(self) -> impl Iterator<Item = (GuestAddress, u32)> {
        let writable = self.chain.take(self.max_size).filter(Descriptor::is_write_only);
        writable.map(|descriptor| (descriptor.addr(), descriptor.len()))
    }
}

/// The result of serving a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The queue is empty. The driver rings the doorbell for the next request.
    Nothing,
    /// A request was served or has just arrived: check again.
    Something,
    /// A request was served, and the driver wants a notification.
    Notify,
}

/// A queue.
#[derive(Debug)]
pub struct VirtQueue {
    max_size: QueueSize,
    size: u16,
    areas: Areas,
    /// The MSI-X vector of its notifications, or [`NO_VECTOR`].
    pub vector: u16,
    ring: Option<Queue>,
}

impl VirtQueue {
    /// A queue after reset: of maximum size, and disabled (virtio 1.2 §4.1.4.3.1).
    #[must_use]
    pub fn new(max_size: QueueSize) -> Self {
        Self { max_size, size: max_size.get(), areas: Areas::default(), vector: NO_VECTOR, ring: None }
    }

    /// Resets the queue.
    pub fn reset(&mut self) {
        *self = Self::new(self.max_size);
    }

    /// The size that the driver set.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The areas that the driver set.
    #[must_use]
    pub fn areas(&self) -> Areas {
        self.areas
    }

    /// Whether the driver has enabled it.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.ring.is_some()
    }

    /// Sets the size. An invalid size, or any size of an enabled queue, is ignored.
    pub fn set_size(&mut self, size: u16) {
        if !self.is_enabled() && size.is_power_of_two() && size <= self.max_size.get() {
            self.size = size;
        }
    }

    /// Sets the areas, unless the queue is enabled.
    pub fn set_areas(&mut self, areas: Areas) {
        if !self.is_enabled() {
            self.areas = areas;
        }
    }

    /// Enables the queue. Does nothing if it is enabled.
    ///
    /// # Errors
    /// [`QueueError::Areas`]: the queue stays disabled.
    pub fn enable(&mut self, memory: &GuestMemoryMmap) -> Result<(), QueueError> {
        if self.ring.is_none() {
            let ring = self.ring(memory);
            self.ring = Some(ring.ok_or(QueueError::Areas { size: self.size, areas: self.areas })?);
        }
        Ok(())
    }

    /// The ring that the registers describe. The virtio-queue crate has a check that logs each error, which a guest
    /// could use to flood the log.
    fn ring(&self, memory: &GuestMemoryMmap) -> Option<Queue> {
        let entries = usize::from(self.size);
        let (descriptors, driver, device) = (self.areas.descriptors, self.areas.driver, self.areas.device);
        // Bytes of each area with event suppression (virtio 1.2 §2.7).
        let areas = [
            (descriptors, entries.checked_mul(16)?, Permissions::Read),
            (driver, entries.checked_mul(2)?.checked_add(6)?, Permissions::Read),
            (device, entries.checked_mul(8)?.checked_add(6)?, Permissions::ReadWrite),
        ];
        let is_ram =
            |(start, len, access): &(u64, usize, _)| memory.check_range(GuestAddress(*start), *len, *access);
        areas.iter().all(is_ram).then_some(())?;
        let mut ring = Queue::new(self.max_size.get()).ok()?;
        ring.try_set_size(self.size).ok()?;
        ring.try_set_desc_table_address(GuestAddress(descriptors)).ok()?;
        ring.try_set_avail_ring_address(GuestAddress(driver)).ok()?;
        ring.try_set_used_ring_address(GuestAddress(device)).ok()?;
        ring.set_ready(true);
        Some(ring)
    }

    /// Serves the next request of the ring, if the queue is enabled.
    ///
    /// # Errors
    /// [`QueueError::Ring`]: the contents of the ring are invalid.
    pub fn serve(
        &mut self,
        memory: &GuestMemoryMmap,
        suppression: EventSuppression,
        serve: impl FnOnce(Request<'_>) -> u32,
    ) -> Result<Served, QueueError> {
        let Some(ring) = &mut self.ring else { return Ok(Served::Nothing) };
        ring.set_event_idx(suppression == EventSuppression::Indices);
        let Some(chain) = ring.iter(memory)?.next() else {
            return Ok(if ring.enable_notification(memory)? { Served::Something } else { Served::Nothing });
        };
        let head = chain.head_index();
        // The virtio-queue crate would refuse it later, and log it each time.
        if head >= self.size {
            return Err(RingError::InvalidDescriptorIndex.into());
        }
        let written = serve(Request { chain, memory, max_size: self.size.into() });
        ring.add_used(memory, head, written)?;
        Ok(if ring.needs_notification(memory)? { Served::Notify } else { Served::Something })
    }
}

/// The mechanism of notification suppression (virtio 1.2 §2.7.7, §2.7.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSuppression {
    /// By flags. The driver's flag is a hint, which is ignored.
    Flags,
    /// By ring indices: VIRTIO_F_EVENT_IDX.
    Indices,
}
