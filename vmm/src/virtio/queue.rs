//! The registers of one virtqueue (virtio 1.2 §2.6, §4.1.4.3). Plain state.
//!
//! Enabling a queue makes its split ring, which the virtio-queue crate implements. The queue's lane takes it, and gives
//! it back after a reset. Invariant: the areas of a ring are aligned and lie in RAM. The driver may write any contents at
//! any time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Error as RingError, Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::live_queue::{QueueState, Ring};

/// "No vector" in the vector registers (virtio 1.2 §4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// Index of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The driver made further chains available while as many were in flight as the queue has descriptors.
    #[error("more than {size} requests in flight")]
    InFlight {
        /// The queue's size.
        size: u16,
    },
    /// The device cannot answer a request, not even with an error.
    #[error("a request {0}")]
    Request(&'static str),
    /// The host refused what the device needs.
    #[error("{0}")]
    Host(String),
}

/// An enabled queue.
#[derive(Debug)]
struct Enabled {
    generation: u64,
    /// The ring, until a lane takes it.
    ring: Option<Queue>,
}

/// The registers of a queue.
#[derive(Debug)]
pub struct VirtQueue {
    max_size: QueueSize,
    size: u16,
    areas: Areas,
    state: Arc<QueueState>,
    enabled: Option<Enabled>,
    /// The generation of the ring that a lane has, also while it is drained after a reset.
    held: Option<u64>,
}

impl VirtQueue {
    /// A queue after reset: of maximum size, and disabled (virtio 1.2 §4.1.4.3.1).
    #[must_use]
    pub fn new(max_size: QueueSize) -> Self {
        let (size, areas, state) = (max_size.get(), Areas::default(), Arc::default());
        Self { max_size, size, areas, state, enabled: None, held: None }
    }

    /// Resets the queue. A lane may still hold its ring.
    pub fn reset(&mut self) {
        (self.size, self.areas, self.enabled) = (self.max_size.get(), Areas::default(), None);
        self.state.generation.store(0, Ordering::Release);
        self.set_vector(NO_VECTOR);
    }

    /// The part that its lane shares.
    #[must_use]
    pub fn state(&self) -> &Arc<QueueState> {
        &self.state
    }

    /// The MSI-X vector of its notifications, or [`NO_VECTOR`].
    #[must_use]
    pub fn vector(&self) -> u16 {
        self.state.vector.load(Ordering::Relaxed)
    }

    /// Sets the vector.
    pub fn set_vector(&mut self, vector: u16) {
        self.state.vector.store(vector, Ordering::Relaxed);
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
        self.enabled.is_some()
    }

    /// The number of this enabling, if the queue is enabled.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.enabled.as_ref().map(|enabled| enabled.generation)
    }

    /// Whether a lane has still requests from before the last reset.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.held.is_some() && self.held != self.generation()
    }

    /// Takes the ring, for a lane that has none. It gives the ring back by [`VirtQueue::release`].
    pub fn take(&mut self) -> Option<Ring> {
        let enabled = self.enabled.as_mut().filter(|_| self.held.is_none())?;
        let queue = enabled.ring.take()?;
        self.held = Some(enabled.generation);
        Some(Ring { queue, generation: enabled.generation })
    }

    /// The lane has dropped the ring.
    pub fn release(&mut self) {
        self.held = None;
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

    /// Enables the queue. Does nothing if it is enabled. `generation` is not 0, and differs from that of
    /// each earlier enabling.
    ///
    /// # Errors
    /// [`QueueError::Areas`]: the queue stays disabled.
    pub fn enable(&mut self, memory: &GuestMemoryMmap, generation: u64) -> Result<(), QueueError> {
        if self.enabled.is_none() {
            let ring = self.ring(memory);
            let ring = ring.ok_or(QueueError::Areas { size: self.size, areas: self.areas })?;
            self.enabled = Some(Enabled { generation, ring: Some(ring) });
            self.state.generation.store(generation, Ordering::Release);
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
}

/// The mechanism of notification suppression (virtio 1.2 §2.7.7, §2.7.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSuppression {
    /// By flags.
    Flags,
    /// By ring indices: VIRTIO_F_EVENT_IDX.
    Indices,
}
