//! The messages in the slots of the VM's routing table, and how many routes of each are in use.
//!
//! An unused message stays in its slot until its room is needed. Invariant: `slots` and `index` agree, and a
//! GSI is returned only for a message that is in force. An [added](Routes::add) message is pending until it
//! is [confirmed](Routes::confirm) or [taken back](Routes::take_back). It has no users meanwhile. Locking:
//! none of its own; see `mod.rs`.
//!
//! All messages here are [keys](super::Hypervisor::key).

use std::ops::RangeInclusive;

use super::counters::RouteCounters;
use super::gsis::Gsis;
use super::index::{Index, MAX_SLOTS};
use crate::counter::Increment;
use crate::interrupt::Interrupt;
use crate::router::Gsi;

/// The vectors that guests give to devices. Lower vectors are exceptions, and guests use higher ones for
/// themselves.
pub(crate) const DEVICE_VECTORS: RangeInclusive<u8> = 0x20..=0xef;

#[derive(Debug)]
struct Slot {
    key: Interrupt,
    users: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The next commit carries it, or the one under way does.
    Pending,
    InForce,
}

/// The table is full, or the embedder's allocator is dry.
#[derive(Debug)]
pub(super) struct NoNewSlot;

/// A message that was added to a slot, and the message that the slot had before.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRoute {
    pub(super) index: usize,
    pub(super) gsi: Gsi,
    pub(super) key: Interrupt,
    pub(super) before: Option<Interrupt>,
}

#[derive(Debug)]
pub(super) struct Routes {
    slots: Vec<Slot>,
    gsis: Gsis,
    index: Index,
    /// The messages of the next commit, in the order in which they were added.
    pending: Vec<PendingRoute>,
    /// How many messages the commit under way carries.
    under_way: usize,
    vcpus: u32,
    /// The slot at which the next search for an unused message begins.
    hand: usize,
    /// How many messages have ever been in force, or are pending.
    ever: u64,
    counters: RouteCounters,
}

impl Routes {
    pub(super) fn new(gsis: Gsis, capacity: usize, vcpus: u32) -> Self {
        let capacity = capacity.min(MAX_SLOTS);
        Self {
            slots: Vec::new(),
            gsis,
            index: Index::default(),
            pending: Vec::new(),
            under_way: 0,
            vcpus,
            hand: 0,
            ever: 0,
            counters: RouteCounters { capacity, ..Default::default() },
        }
    }

    pub(super) fn counters(&self) -> RouteCounters {
        RouteCounters { published: self.len(), ..self.counters }
    }

    /// Messages in the table, pending ones included.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many messages could be replaced by others.
    pub(super) fn unused(&self) -> usize {
        let pending = self.pending.len().saturating_add(self.under_way);
        self.len().saturating_sub(self.counters.in_use).saturating_sub(pending)
    }

    /// How many more messages have room, if there are GSIs.
    pub(super) fn spare(&self) -> usize {
        self.counters.capacity.saturating_sub(self.len())
    }

    /// How many more messages, up to `messages`, have room and a GSI. Takes the GSIs from the embedder's
    /// allocator.
    pub(super) fn reserve(&mut self, messages: usize) -> usize {
        let len = self.len();
        self.gsis.reserve(len.saturating_add(messages).min(self.counters.capacity)).saturating_sub(len)
    }

    /// Whether one more message has room and a GSI.
    pub(super) fn has_spare(&mut self) -> bool {
        self.gsis.gsi(self.len()).is_some() || self.reserve(1) > 0
    }

    /// The embedder's allocator may have more GSIs by now.
    pub(super) fn allocate_again(&mut self) {
        self.gsis.allocate_again();
    }

    /// The largest number of messages.
    pub(super) fn capacity(&self) -> usize {
        self.counters.capacity
    }

    /// How many vCPUs share the table.
    pub(super) fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// The most messages of one destination to prefetch: an even share of the table.
    pub(super) fn share(&self) -> usize {
        let capacity = self.counters.capacity;
        capacity.checked_div(self.vcpus as usize).unwrap_or(capacity).clamp(1, DEVICE_VECTORS.len())
    }

    /// Whether, with the next commit, each message would have been in more than two and a half committed
    /// tables on average.
    pub(super) fn is_handed_over_too_often(&self) -> bool {
        let handed = self.counters.handed_over.saturating_add(self.len() as u64);
        handed.saturating_mul(2) > self.ever.saturating_mul(5)
    }

    /// A use of a message that is in force.
    pub(super) fn acquire(&mut self, key: Interrupt) -> Option<Gsi> {
        let index = self.index.get(key)?;
        let slot = self.slots.get_mut(index).filter(|slot| slot.phase == Phase::InForce)?;
        self.counters.in_use = self.counters.in_use.saturating_add((slot.users == 0).into());
        slot.users.increment();
        self.gsis.gsi(index)
    }

    /// The same for a message that costs its caller no commit.
    pub(super) fn get(&mut self, key: Interrupt) -> Option<Gsi> {
        let gsi = self.acquire(key)?;
        self.counters.hits.increment();
        Some(gsi)
    }

    /// Ends one use of a message.
    pub(super) fn put(&mut self, gsi: Gsi) {
        if let Some(slot) = self.gsis.slot(gsi).and_then(|index| self.slots.get_mut(index)) {
            slot.users = slot.users.saturating_sub(1);
            self.counters.in_use = self.counters.in_use.saturating_sub((slot.users == 0).into());
        }
    }

    /// Whether a message is in force or pending.
    pub(super) fn has(&self, key: Interrupt) -> bool {
        self.index.get(key).is_some()
    }

    /// Whether a message is in force.
    pub(super) fn is_in_force(&self, key: Interrupt) -> bool {
        let slot = self.index.get(key).and_then(|index| self.slots.get(index));
        slot.is_some_and(|slot| slot.phase == Phase::InForce)
    }

    /// Adds a message to the next commit, in a new slot or in the slot of an unused message, from which every
    /// irqfd is detached. Does nothing if there is neither, or if the message is in the table already.
    pub(super) fn add(&mut self, key: Interrupt) {
        match self.add_in_new_slot(key) {
            Ok(()) => {}
            Err(NoNewSlot) => self.evict_for(key),
        }
    }

    /// Adds a message in a new slot, unless it is in the table already.
    pub(super) fn add_in_new_slot(&mut self, key: Interrupt) -> Result<(), NoNewSlot> {
        let index = self.len();
        if !self.has_spare() {
            return Err(NoNewSlot);
        }
        let gsi = self.gsis.gsi(index).ok_or(NoNewSlot)?;
        if self.index.insert(key, index) {
            self.slots.push(Slot { key, users: 0, phase: Phase::Pending });
            self.pending.push(PendingRoute { index, gsi, key, before: None });
            self.ever.increment();
        }
        Ok(())
    }

    #[cold]
    fn evict_for(&mut self, key: Interrupt) {
        if self.has(key) {
            return;
        }
        let Some(index) = self.next_unused() else { return };
        let (Some(slot), Some(gsi)) = (self.slots.get_mut(index), self.gsis.gsi(index)) else { return };
        let before = std::mem::replace(slot, Slot { key, users: 0, phase: Phase::Pending }).key;
        self.index.remove(before);
        self.index.insert(key, index);
        self.counters.evictions.increment();
        self.pending.push(PendingRoute { index, gsi, key, before: Some(before) });
        self.ever.increment();
    }

    fn next_unused(&mut self) -> Option<usize> {
        if self.unused() == 0 {
            return None;
        }
        let (before, after) = self.slots.split_at_checked(self.hand)?;
        let is_unused = |slot: &Slot| slot.users == 0 && slot.phase == Phase::InForce;
        let offset = after.iter().chain(before).position(is_unused)?;
        let index = self.hand.saturating_add(offset).checked_rem(self.len())?;
        self.hand = index.saturating_add(1).checked_rem(self.len())?;
        Some(index)
    }

    /// The messages of the next commit.
    pub(super) fn pending(&self) -> &[PendingRoute] {
        &self.pending
    }

    /// Begins a commit, and returns its messages. It ends with [`confirm`](Self::confirm) or
    /// [`take_back`](Self::take_back).
    pub(super) fn begin(&mut self) -> Vec<PendingRoute> {
        self.under_way = self.pending.len();
        std::mem::take(&mut self.pending)
    }

    /// The hypervisor has accepted the commit under way: its messages are in force.
    pub(super) fn confirm(&mut self, committed: &[PendingRoute]) {
        self.under_way = 0;
        for PendingRoute { index, .. } in committed {
            if let Some(slot) = self.slots.get_mut(*index) {
                slot.phase = Phase::InForce;
            }
        }
        self.counters.commits.increment();
        self.counters.handed_over = self.counters.handed_over.saturating_add(self.slots.len() as u64);
    }

    /// The hypervisor has refused the commit under way: its messages are removed, and the replaced ones are
    /// back.
    pub(super) fn take_back(&mut self, refused: &[PendingRoute]) {
        self.under_way = 0;
        self.ever = self.ever.saturating_sub(refused.len() as u64);
        for PendingRoute { index, key, before, .. } in refused.iter().rev().copied() {
            self.index.remove(key);
            match (before, self.slots.get_mut(index)) {
                (Some(key), Some(slot)) => {
                    self.counters.evictions = self.counters.evictions.saturating_sub(1);
                    *slot = Slot { key, users: 0, phase: Phase::InForce };
                    self.index.insert(key, index);
                }
                _ => self.slots.truncate(index),
            }
        }
    }
}

#[cfg(test)]
impl Routes {
    /// The GSI, message and number of users of each slot. Nothing may be pending.
    pub(super) fn committed(&self) -> Vec<(Gsi, Interrupt, u32)> {
        assert!(self.pending.is_empty() && self.under_way == 0);
        assert!(self.slots.iter().all(|slot| slot.phase == Phase::InForce));
        assert_eq!(self.index.len(), self.slots.len());
        let row = |(index, slot): (usize, &Slot)| {
            assert_eq!(self.index.get(slot.key), Some(index), "{:?}", slot.key);
            let gsi = self.gsis.gsi(index).unwrap();
            assert_eq!(self.gsis.slot(gsi), Some(index));
            (gsi, slot.key, slot.users)
        };
        self.slots.iter().enumerate().map(row).collect()
    }
}
