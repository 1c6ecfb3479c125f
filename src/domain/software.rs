//! The domain of a device model inside the VMM: no eventfd, no GSI, no routing table.
//!
//! A trigger is one KVM_SIGNAL_MSI with the store's message, or a pending bit while the vector is masked. Owns the pending bits.
//!
//! Locking: one lock, taken before the router's and the store's. A trigger holds it while it reads the store and signals, and masking
//! takes it. No trigger therefore delivers after a guest's write of a mask bit has returned.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Release, SeqCst};

use super::{BusMaster, Domain};
use crate::counter::Increment;
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::interrupt::{Interrupt, Target};
use crate::lock::Mutex;
use crate::router::{Router, Signalled};
use crate::sealed::Sealed;
use crate::state::{PendingBits, SuspendError};

/// One software device's vectors of one store.
pub struct SoftwareDomain {
    router: Arc<dyn Router>,
    latches: Mutex<Latches>,
    /// The vector that is being delivered, plus one; 0 for none. It is set before the store is read: see `may_deliver.rs`.
    delivering: AtomicU32,
}

#[derive(Debug, Default)]
struct Latches {
    /// A bit for each vector, 64 in a word.
    pending: Vec<u64>,
    /// Live vectors whose interrupt waits because the host refused to deliver it.
    refused: BTreeSet<Vector>,
    /// Nothing is delivered.
    suspended: bool,
    /// Nothing is delivered while the bus does not let the device signal.
    bus_master: BusMaster,
    counters: SoftwareCounters,
}

/// Counters of a software device since the domain was made. They never decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SoftwareCounters {
    /// Interrupts delivered.
    pub delivered: u64,
    /// Triggers that were not delivered at once: the vector is masked, its message is not valid, the bus does not let the device
    /// signal, or the host refused.
    pub latched: u64,
    /// Triggers that were dropped: the capability is off, or the vector does not exist.
    pub dropped: u64,
    /// Triggers of vectors whose message is a write to memory.
    pub written_to_memory: u64,
    /// Triggers whose message no interrupt controller accepted
    /// ([`Signalled::NotAccepted`](crate::router::Signalled::NotAccepted)). This is the guest's mistake. They are
    /// dropped, as on hardware.
    pub unaccepted: u64,
    /// How often the host refused to deliver, each retry included.
    pub host_failures: u64,
}

impl SoftwareDomain {
    /// A domain of up to `vectors` vectors.
    pub fn new(vectors: u32, router: Arc<dyn Router>) -> Self {
        let words = (vectors as usize).div_ceil(64);
        let latches = Latches { pending: vec![0; words], ..Default::default() };
        Self { router, latches: Mutex::new(latches), delivering: AtomicU32::new(0) }
    }

    /// Raises a vector's interrupt: it is delivered now, or waits while the vector is masked. If the vector does not exist or the
    /// capability is off, the interrupt is dropped and counted.
    pub fn trigger(&self, store: &dyn Store, vector: Vector) {
        let mut latches = self.latches.lock();
        if vector.0 >= store.vectors() || !latches.set(vector) {
            latches.counters.dropped.increment();
        } else if !self.deliver_waiting(&mut latches, store, vector) {
            latches.counters.latched.increment();
        }
    }

    /// The counters since the domain was made.
    pub fn counters(&self) -> SoftwareCounters {
        self.latches.lock().counters
    }

    /// Delivers a vector's pending interrupt if the vector is live; true if its message was sent.
    fn deliver_waiting(&self, latches: &mut Latches, store: &dyn Store, vector: Vector) -> bool {
        if let Some(left) = self.under_delivery() {
            latches.refused.insert(left);
        }
        self.delivering.store(vector.0.saturating_add(1), SeqCst);
        let delivered = latches.deliver_waiting(&*self.router, store, vector);
        // `Release` is enough: an access relies on the order of the `SeqCst` store above and its own look at the registers.
        self.delivering.store(0, Release);
        delivered
    }

    /// The vector that is being delivered. With the lock held: the vector in whose delivery a router has panicked.
    fn under_delivery(&self) -> Option<Vector> {
        self.delivering.load(SeqCst).checked_sub(1).map(Vector)
    }

    /// Delivers all pending interrupts of live vectors.
    fn deliver_all(&self, latches: &mut Latches, store: &dyn Store) {
        for vector in PendingBits(latches.pending.clone()).vectors() {
            self.deliver_waiting(latches, store, vector);
        }
    }
}

impl fmt::Debug for SoftwareDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareDomain").finish_non_exhaustive()
    }
}

impl Sealed for SoftwareDomain {}

impl Domain for SoftwareDomain {
    fn sync(&self, store: &dyn Store, touched: Touched) {
        if touched.is_empty() {
            return;
        }
        // Taking the lock waits for a trigger under way, also if the capability was disabled.
        let mut latches = self.latches.lock();
        for vector in touched.vectors() {
            self.deliver_waiting(&mut latches, store, vector);
        }
    }

    fn retry(&self, store: &dyn Store) {
        let mut latches = self.latches.lock();
        let refused: Vec<Vector> = latches.refused.iter().copied().chain(self.under_delivery()).collect();
        for vector in refused {
            self.deliver_waiting(&mut latches, store, vector);
        }
    }

    /// Live vectors whose interrupt waits because the host refused to deliver it.
    fn failed_steps(&self) -> usize {
        let latches = self.latches.lock();
        let left = self.under_delivery().filter(|left| !latches.refused.contains(left));
        latches.refused.len().saturating_add(left.is_some().into())
    }

    fn may_deliver(&self, vectors: Range<u32>) -> Option<Vector> {
        self.under_delivery().filter(|vector| vectors.contains(&vector.0))
    }

    fn pending(&self, group: u32) -> u64 {
        self.latches.lock().pending.get(group as usize).copied().unwrap_or_default()
    }

    fn clear_pending(&self) {
        let mut latches = self.latches.lock();
        latches.pending.fill(0);
        latches.refused.clear();
    }

    fn set_bus_master(&self, store: &dyn Store, bus_master: BusMaster) {
        let mut latches = self.latches.lock();
        if std::mem::replace(&mut latches.bus_master, bus_master) != bus_master {
            self.deliver_all(&mut latches, store);
        }
    }

    /// It cannot fail: taking the lock waits for a trigger under way, and there is no irqfd to detach.
    fn suspend(&self, _: &dyn Store) -> Result<PendingBits, SuspendError> {
        let mut latches = self.latches.lock();
        latches.suspended = true;
        latches.refused.clear();
        Ok(PendingBits(latches.pending.clone()))
    }

    fn set_pending(&self, pending: &PendingBits) {
        let mut latches = self.latches.lock();
        let words = pending.0.iter().copied().chain(std::iter::repeat(0));
        latches.pending.iter_mut().zip(words).for_each(|(word, bits)| *word = bits);
    }

    /// None: there are no routes.
    fn messages(&self, _: &dyn Store, _: &mut Vec<Interrupt>) {}

    fn resume(&self, store: &dyn Store) {
        let mut latches = self.latches.lock();
        if std::mem::take(&mut latches.suspended) {
            self.deliver_all(&mut latches, store);
        }
    }
}

impl Latches {
    fn word(&mut self, vector: Vector) -> Option<(&mut u64, u64)> {
        let word = self.pending.get_mut((vector.0 / 64) as usize)?;
        Some((word, 1u64.wrapping_shl(vector.0 % 64)))
    }

    /// Sets a vector's pending bit; false if the vector does not exist.
    fn set(&mut self, vector: Vector) -> bool {
        self.word(vector).map(|(word, bit)| *word |= bit).is_some()
    }

    /// See [`SoftwareDomain::deliver_waiting`]. The pending bit is cleared, and the vector leaves `refused`, only after the router has
    /// delivered: a router that panics loses nothing.
    fn deliver_waiting(&mut self, router: &dyn Router, store: &dyn Store, vector: Vector) -> bool {
        let is_waiting = self.word(vector).is_some_and(|(word, bit)| *word & bit != 0);
        if !is_waiting || self.suspended || self.bus_master == BusMaster::Disabled {
            self.refused.remove(&vector);
            return false;
        }
        let Delivery::Live(message) = store.delivery(vector) else {
            self.refused.remove(&vector);
            return false;
        };
        let counter = match router.translate(message) {
            Ok(Target::Interrupt(interrupt)) => match router.signal(interrupt) {
                Ok(Signalled::Delivered) => &mut self.counters.delivered,
                Ok(Signalled::NotAccepted) => &mut self.counters.unaccepted,
                Err(_) => {
                    self.refused.insert(vector);
                    self.counters.host_failures.increment();
                    return false;
                }
            },
            Ok(Target::Memory(message)) => {
                router.write_memory(message);
                &mut self.counters.written_to_memory
            }
            // The guest's mistake. It is tried again with another message or another translation.
            Err(_) => {
                self.refused.remove(&vector);
                return false;
            }
        };
        counter.increment();
        if !self.refused.is_empty() {
            self.refused.remove(&vector);
        }
        if let Some((word, bit)) = self.word(vector) {
            *word &= !bit;
        }
        true
    }
}
