//! The split ring of a live queue (virtio 1.2 §2.7), which its lane owns: chains come out, and go back used.
//!
//! Used chains are collected and published together, after each call of the handler. The driver is notified at most
//! once for them. Invariants: a ring is not touched after its reset. While the bus keeps the device from memory, used
//! chains wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering, fence};

use serde_json::{Value, json};
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Error as RingError, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::{Chain, Storage};
use super::queue::{Areas, EventSuppression, NO_VECTOR, QueueError};

/// Bytes of the used ring before its entries, and of an entry (§2.7.8).
const USED_HEADER: u64 = 4;
const USED_ENTRY: u64 = 8;
/// Offset of the index in the used ring.
const INDEX: u64 = 2;
/// Bytes of the available ring before its entries, of two bytes each. `used_event` follows them (§2.7.6).
const AVAILABLE_HEADER: u64 = 4;

/// The part of a queue that its lane and the registers share.
#[derive(Debug)]
pub struct QueueState {
    /// The MSI-X vector of its notifications, or [`NO_VECTOR`].
    pub vector: AtomicU16,
    /// The number of the queue's enabling, or 0 while it is disabled. A ring of another generation is not touched.
    pub generation: AtomicU64,
    /// Chains taken from the ring.
    pub requests: AtomicU64,
    /// Chains that break a rule of the ring or of the device.
    pub invalid: AtomicU64,
    /// Notifications of the driver.
    pub notified: AtomicU64,
    /// Batches of used chains of which the driver did not want to be notified.
    pub suppressed: AtomicU64,
}

impl Default for QueueState {
    fn default() -> Self {
        let [generation, requests, invalid, notified, suppressed] = [const { AtomicU64::new(0) }; 5];
        Self { vector: AtomicU16::new(NO_VECTOR), generation, requests, invalid, notified, suppressed }
    }
}

impl QueueState {
    /// The vector, or `None`.
    #[must_use]
    pub fn vector(&self) -> Option<u16> {
        Some(self.vector.load(Ordering::Relaxed)).filter(|vector| *vector != NO_VECTOR)
    }

    /// The queue's part of the report.
    #[must_use]
    pub fn report(&self, size: u16, is_enabled: bool) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "enabled": is_enabled,
            "size": size,
            "vector": self.vector(),
            "requests": count(&self.requests),
            "invalid": count(&self.invalid),
            "notified": count(&self.notified),
            "suppressed": count(&self.suppressed),
        })
    }
}

/// An enabled queue's ring, on its way from the registers to the lane.
#[derive(Debug)]
pub struct Ring {
    pub(super) queue: Queue,
    pub(super) generation: u64,
}

/// A live queue.
#[derive(Debug)]
pub struct LiveQueue {
    ring: Queue,
    generation: u64,
    suppression: EventSuppression,
    memory: GuestMemoryMmap,
    /// Whether the device may access memory.
    bus_master: Arc<AtomicBool>,
    state: Arc<QueueState>,
    in_flight: u16,
    /// Whether chains may be taken.
    is_open: bool,
    /// How many chains may be taken until the lane looks for other work.
    budget: u16,
    /// Used chains that are not published: head and bytes written.
    used: Vec<(u16, u32)>,
    storage: Vec<Storage>,
    error: Option<QueueError>,
}

impl LiveQueue {
    pub(super) fn new(
        ring: Ring,
        suppression: EventSuppression,
        memory: GuestMemoryMmap,
        bus_master: Arc<AtomicBool>,
        state: Arc<QueueState>,
    ) -> Self {
        let Ring { queue: mut ring, generation } = ring;
        ring.set_event_idx(suppression == EventSuppression::Indices);
        Self {
            ring,
            generation,
            suppression,
            memory,
            bus_master,
            state,
            in_flight: 0,
            is_open: false,
            budget: 0,
            used: Vec::new(),
            storage: Vec::new(),
            error: None,
        }
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Number of entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The addresses of the ring's areas, in RAM.
    #[must_use]
    pub fn areas(&self) -> Areas {
        Areas {
            descriptors: self.ring.desc_table(),
            driver: self.ring.avail_ring(),
            device: self.ring.used_ring(),
        }
    }

    /// Index in the available ring of the next chain to take, not reduced by the size. 0 after a reset.
    #[must_use]
    pub fn position(&self) -> u16 {
        self.ring.next_avail()
    }

    /// Continues at another position, after the host has served the ring. No chain is in flight then, so the used index is
    /// the same.
    pub fn set_position(&mut self, position: u16) {
        self.ring.set_next_avail(position);
        self.ring.set_next_used(position);
    }

    /// Number of chains that were taken and not given back.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Takes the next chain. `None` if there is none, if the handler has taken as many in this call as the queue has
    /// entries, or if the ring is invalid. [`Handler::queue_ready`](super::Handler::queue_ready) is called again when
    /// there are more.
    pub fn pop(&mut self) -> Option<Chain> {
        let may_take = self.is_open && self.error.is_none() && self.budget > 0 && self.is_current();
        if !may_take || !self.bus_master.load(Ordering::Acquire) {
            return None;
        }
        match self.next_chain() {
            Ok(chain) => chain,
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    fn next_chain(&mut self) -> Result<Option<Chain>, QueueError> {
        let size = self.ring.size();
        let mut descriptors = self.ring.iter(&self.memory)?.next();
        if descriptors.is_none() {
            // A chain that came before the driver has seen that it has to ring.
            if !self.ring.enable_notification(&self.memory)? {
                return Ok(None);
            }
            descriptors = self.ring.iter(&self.memory)?.next();
        }
        let Some(descriptors) = descriptors else {
            // A driver that takes chains back could keep the lane here. It looks again after its other work.
            self.budget = 0;
            return Ok(None);
        };
        // The virtio-queue crate would refuse this head when it is used, and log it each time.
        if descriptors.head_index() >= size {
            return Err(RingError::InvalidDescriptorIndex.into());
        }
        if self.in_flight >= size {
            return Err(QueueError::InFlight { size });
        }
        let storage = self.storage.pop().unwrap_or_default();
        let chain = Chain::read(descriptors, size, self.generation, storage);
        self.in_flight = self.in_flight.saturating_add(1);
        self.budget = self.budget.saturating_sub(1);
        self.state.requests.fetch_add(1, Ordering::Relaxed);
        if chain.fault().is_some() {
            self.count_invalid();
        }
        Ok(Some(chain))
    }

    /// Counts a request that breaks a rule of the device. The queue counts the [faults](Chain::fault) of chains itself.
    pub fn count_invalid(&self) {
        self.state.invalid.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a chain back as used, with the number of bytes that were written to its writable buffers. Chains may be
    /// completed in any order. A chain from before a reset is ignored.
    pub fn complete(&mut self, chain: Chain, written: u32) {
        if chain.generation() == self.generation {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.used.push((chain.head(), written));
        }
        self.storage.push(chain.into_storage());
    }

    /// Gives back the chain that was taken last, as if it had not been taken.
    pub fn put_back(&mut self, chain: Chain) {
        if chain.generation() == self.generation {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.budget = self.budget.saturating_add(1);
            self.state.requests.fetch_sub(1, Ordering::Relaxed);
            self.ring.go_to_previous_position();
        }
        self.storage.push(chain.into_storage());
    }

    /// Gives back a chain that the device cannot answer, not even with an error. It stays unused, and the device stops
    /// until its reset (virtio 1.2 §2.1.2).
    pub fn reject(&mut self, chain: Chain, error: QueueError) {
        if chain.generation() == self.generation {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.fail(error);
        }
        self.storage.push(chain.into_storage());
    }

    /// Stops the device until its reset.
    pub fn fail(&mut self, error: QueueError) {
        self.error.get_or_insert(error);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the queue was not reset since.
    fn is_current(&self) -> bool {
        self.state.generation.load(Ordering::Acquire) == self.generation
    }

    pub(super) fn take_error(&mut self) -> Option<QueueError> {
        self.error.take()
    }

    /// Lets the handler take chains.
    pub(super) fn open(&mut self) {
        self.is_open = true;
        self.refill();
    }

    /// Lets the handler take no chains.
    pub(super) fn close(&mut self) {
        self.is_open = false;
    }

    /// Allows the handler to take as many chains as the queue has entries.
    pub(super) fn refill(&mut self) {
        self.budget = self.ring.size();
    }

    /// Whether there may be further chains although nothing rings.
    pub(super) fn is_spent(&self) -> bool {
        self.budget == 0
    }

    /// Publishes the used chains. True if the driver is to be notified.
    pub(super) fn publish(&mut self) -> bool {
        if !self.is_current() {
            self.used.clear();
        }
        if self.used.is_empty() || !self.bus_master.load(Ordering::Acquire) {
            return false;
        }
        match self.publish_used() {
            Ok(is_wanted) => {
                let counter = if is_wanted { &self.state.notified } else { &self.state.suppressed };
                counter.fetch_add(1, Ordering::Relaxed);
                is_wanted
            }
            Err(error) => {
                self.fail(error.into());
                false
            }
        }
    }

    /// Writes the used entries, and then the index once: a driver that finds the first buffer of a received packet finds
    /// the others, too (§5.1.6.4.1). The virtio-queue crate stores the index after each entry.
    fn publish_used(&mut self) -> Result<bool, RingError> {
        let (used_ring, before) = (self.ring.used_ring(), self.ring.next_used());
        let mut next = before;
        for (head, written) in self.used.drain(..) {
            let entry = u64::from(next.checked_rem(self.ring.size()).unwrap_or(0));
            let address = used_ring.wrapping_add(USED_HEADER).wrapping_add(entry.wrapping_mul(USED_ENTRY));
            // The chain's head, and behind it the bytes written, of 32 bits each.
            let entry = (u64::from(head) | u64::from(written) << 32).to_le();
            self.memory.write_obj(entry, GuestAddress(address)).map_err(RingError::GuestMemory)?;
            next = next.wrapping_add(1);
        }
        let index = GuestAddress(used_ring.wrapping_add(INDEX));
        self.memory.store(next.to_le(), index, Ordering::Release).map_err(RingError::GuestMemory)?;
        self.ring.set_next_used(next);
        // What the driver wants is read after the index is visible: it checks the index after it has said so.
        fence(Ordering::SeqCst);
        let available = self.ring.avail_ring();
        if self.suppression == EventSuppression::Indices {
            let entries = u64::from(self.ring.size()).wrapping_mul(2);
            let event = self.driver_word(available.wrapping_add(AVAILABLE_HEADER).wrapping_add(entries))?;
            // The index of the entry of which the driver wants to be notified is among those just used (§2.7.10).
            return Ok(next.wrapping_sub(event).wrapping_sub(1) < next.wrapping_sub(before));
        }
        Ok(self.driver_word(available)? & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0)
    }

    fn driver_word(&self, address: u64) -> Result<u16, RingError> {
        let word = self.memory.read_obj::<u16>(GuestAddress(address)).map_err(RingError::GuestMemory)?;
        Ok(u16::from_le(word))
    }
}
