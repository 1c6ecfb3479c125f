//! The domain of a device model inside the VMM: no eventfd, no GSI, no routing table.
//!
//! A trigger is one KVM_SIGNAL_MSI with the store's message, or a pending bit while the vector is masked. Owns those pending
//! bits. Locking: one lock, which a trigger holds while it reads the store and signals, and which masking takes; so when a guest's
//! mask has been written, no trigger delivers. It is taken before the router's and the store's.

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
    /// The vector that is being delivered, plus one; 0 for none. See `may_deliver.rs`: it is set before the store is read.
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

/// What a software device's vectors have done since the domain was made. The counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SoftwareCounters {
    /// Interrupts delivered.
    pub delivered: u64,
    /// Triggers that were not delivered at once: the vector is masked, its message is not valid, the bus does not let the device
    /// signal, or the host refused.
    pub latched: u64,
    /// Triggers of vectors while the capability is off: the device may not signal, they are dropped.
    pub dropped: u64,
    /// Triggers of vectors whose message is a write to memory.
    pub written_to_memory: u64,
    /// Triggers whose message no interrupt controller accepted
    /// ([`Signalled::NotAccepted`](crate::router::Signalled::NotAccepted)): the guest's mistake. They are dropped, as hardware
    /// drops them.
    pub unaccepted: u64,
    /// Refusals of the host to deliver, each further try counted.
    pub host_failures: u64,
}

impl SoftwareDomain {
    /// A domain of up to `vectors` vectors.
    pub fn new(vectors: u32, router: Arc<dyn Router>) -> Self {
        let words = (vectors as usize).div_ceil(64);
        let latches = Latches { pending: vec![0; words], ..Default::default() };
        Self { router, latches: Mutex::new(latches), delivering: AtomicU32::new(0) }
    }

    /// The device signals a vector: its message is delivered now, or waits while the vector is masked. A vector that the device
    /// does not have, or that it signals while the capability is off, is dropped and counted.
    pub fn trigger(&self, store: &dyn Store, vector: Vector) {
        let mut latches = self.latches.lock();
        if vector.0 >= store.vectors() || !latches.set(vector) {
            latches.counters.dropped.increment();
        } else if !self.settle(&mut latches, store, vector) {
            latches.counters.latched.increment();
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> SoftwareCounters {
        self.latches.lock().counters
    }

    /// Delivers what waits for a vector, if it is live; true where the message has left the device.
    fn settle(&self, latches: &mut Latches, store: &dyn Store, vector: Vector) -> bool {
        if let Some(left) = self.under_delivery() {
            latches.refused.insert(left);
        }
        self.delivering.store(vector.0.saturating_add(1), SeqCst);
        let delivered = latches.settle(&*self.router, store, vector);
        // The step above has the order that an access relies on, which looks at the registers first and then here.
        self.delivering.store(0, Release);
        delivered
    }

    /// The vector that is being delivered. With the lock held: the vector in whose delivery a router has panicked.
    fn under_delivery(&self) -> Option<Vector> {
        self.delivering.load(SeqCst).checked_sub(1).map(Vector)
    }

    /// Delivers what waits, and may be delivered.
    fn settle_all(&self, latches: &mut Latches, store: &dyn Store) {
        for vector in PendingBits(latches.pending.clone()).vectors() {
            self.settle(latches, store, vector);
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
        // Also where the capability was turned off: a trigger that is under way has ended once the lock is had.
        let mut latches = self.latches.lock();
        for vector in touched.vectors() {
            self.settle(&mut latches, store, vector);
        }
    }

    fn retry(&self, store: &dyn Store) {
        let mut latches = self.latches.lock();
        let refused: Vec<Vector> = latches.refused.iter().copied().chain(self.under_delivery()).collect();
        for vector in refused {
            self.settle(&mut latches, store, vector);
        }
    }

    /// Vectors that are live, and whose interrupt waits because the host refused to deliver it.
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
            self.settle_all(&mut latches, store);
        }
    }

    /// A trigger that is under way has ended once the lock is had, so no host can refuse this.
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
            self.settle_all(&mut latches, store);
        }
    }
}

impl Latches {
    fn word(&mut self, vector: Vector) -> Option<(&mut u64, u64)> {
        let word = self.pending.get_mut((vector.0 / 64) as usize)?;
        Some((word, 1u64.wrapping_shl(vector.0 % 64)))
    }

    /// Sets a vector's pending bit; false where there is no such vector.
    fn set(&mut self, vector: Vector) -> bool {
        self.word(vector).map(|(word, bit)| *word |= bit).is_some()
    }

    /// See [`SoftwareDomain::settle`]. The pending bit is cleared, and the vector leaves `refused`, only after the router has
    /// delivered: a router that panics loses nothing.
    fn settle(&mut self, router: &dyn Router, store: &dyn Store, vector: Vector) -> bool {
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
            // The guest's mistake: another message, or another translation, is worth another try. This one is not.
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
