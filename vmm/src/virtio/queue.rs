//! One virtqueue (virtio 1.2 §2.6, §2.7): the registers by which the driver describes it, and the split ring itself
//! while it is enabled, which is the virtio-queue crate's.
//!
//! Invariant: a ring exists only where its three areas are aligned and lie in RAM whole, which never changes. What the
//! driver puts *into* them may be anything at any time.

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Error as RingError, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// "No vector" in the vector registers (virtio 1.2 §4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// A queue of a device, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueIndex(pub u16);

/// How many entries a queue may have: a power of two, 1 to 32768.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSize(u16);

impl QueueSize {
    /// Two to the power of `exponent`, which counts as 15 if it is more.
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

/// The driver's fault: its queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// An area is misaligned or not in RAM.
    #[error("the areas of a queue of {size} entries are misaligned or not in RAM: {areas:x?}")]
    Areas {
        /// The queue's size.
        size: u16,
        /// Where the driver says that they are.
        areas: Areas,
    },
    /// What is in the ring makes no sense.
    #[error("the ring is broken: {0}")]
    Ring(#[from] RingError),
}

/// One request of the driver's: a chain of buffers, of which at most as many are followed as the queue has entries.
#[derive(Debug)]
pub struct Request<'m> {
    chain: DescriptorChain<&'m GuestMemoryMmap>,
    memory: &'m GuestMemoryMmap,
    most: usize,
}

impl<'m> Request<'m> {
    /// Guest memory, to reach the buffers. They may lie anywhere, also outside of it.
    #[must_use]
    pub fn memory(&self) -> &'m GuestMemoryMmap {
        self.memory
    }

    /// The buffers that the device may write, in order: address and length in bytes. A chain that leads nowhere ends.
    pub fn writable(self) -> impl Iterator<Item = (GuestAddress, u32)> {
        let writable = self.chain.take(self.most).filter(Descriptor::is_write_only);
        writable.map(|descriptor| (descriptor.addr(), descriptor.len()))
    }
}

/// What became of one look at a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// There is nothing to do; the driver will ring the doorbell for what comes.
    Nothing,
    /// Something was done, or came just now: look again.
    Something,
    /// A request was served, and the driver wants to hear of it.
    Notify,
}

/// A queue.
#[derive(Debug)]
pub struct VirtQueue {
    most: QueueSize,
    size: u16,
    areas: Areas,
    /// The MSI-X vector of its notifications, or [`NO_VECTOR`].
    pub vector: u16,
    ring: Option<Queue>,
}

impl VirtQueue {
    /// A queue after reset: as large as may be, and not enabled (virtio 1.2 §4.1.4.3.1).
    #[must_use]
    pub fn new(most: QueueSize) -> Self {
        Self { most, size: most.get(), areas: Areas::default(), vector: NO_VECTOR, ring: None }
    }

    /// Back to that.
    pub fn reset(&mut self) {
        *self = Self::new(self.most);
    }

    /// The size that the driver has chosen.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The areas that it has chosen.
    #[must_use]
    pub fn areas(&self) -> Areas {
        self.areas
    }

    /// Whether the driver has enabled it.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.ring.is_some()
    }

    /// Chooses a size. One that the queue cannot have changes nothing, and so does any while it is enabled.
    pub fn set_size(&mut self, size: u16) {
        if !self.is_enabled() && size.is_power_of_two() && size <= self.most.get() {
            self.size = size;
        }
    }

    /// Says where the areas are, unless it is enabled.
    pub fn set_areas(&mut self, areas: Areas) {
        if !self.is_enabled() {
            self.areas = areas;
        }
    }

    /// Begins to use the ring; nothing happens if it is in use.
    ///
    /// # Errors
    /// [`QueueError::Areas`]: the driver's description cannot be true, and the queue stays as it is.
    pub fn enable(&mut self, memory: &GuestMemoryMmap) -> Result<(), QueueError> {
        if self.ring.is_none() {
            let ring = self.ring(memory);
            self.ring = Some(ring.ok_or(QueueError::Areas { size: self.size, areas: self.areas })?);
        }
        Ok(())
    }

    /// The ring that the registers describe. The crate has a check of its own for it, which logs what the guest does
    /// wrong as often as it does; this one is silent.
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
        let mut ring = Queue::new(self.most.get()).ok()?;
        ring.try_set_size(self.size).ok()?;
        ring.try_set_desc_table_address(GuestAddress(descriptors)).ok()?;
        ring.try_set_avail_ring_address(GuestAddress(driver)).ok()?;
        ring.try_set_used_ring_address(GuestAddress(device)).ok()?;
        ring.set_ready(true);
        Some(ring)
    }

    /// Takes the next request from the ring, if the queue is enabled, and has it served.
    ///
    /// # Errors
    /// [`QueueError::Ring`]: the driver has written what cannot be.
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
        // The crate would refuse it too, once it is served, and log it as often as the guest does it.
        if head >= self.size {
            return Err(RingError::InvalidDescriptorIndex.into());
        }
        let written = serve(Request { chain, memory, most: self.size.into() });
        ring.add_used(memory, head, written)?;
        Ok(if ring.needs_notification(memory)? { Served::Notify } else { Served::Something })
    }
}

/// How driver and device tell each other what they want to hear of (virtio 1.2 §2.7.7, §2.7.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSuppression {
    /// By flags; the driver's is a hint, which is not followed.
    Flags,
    /// By ring indices: VIRTIO_F_EVENT_IDX.
    Indices,
}
