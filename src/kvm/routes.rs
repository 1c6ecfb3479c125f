//! Which message is in which place of the VM's routing table, and who uses it.
//!
//! A vector costs an irqfd and no commit where its message is in the table already, and a message that nobody uses stays
//! until its room is needed. Invariant: `slots` and `index` agree, and a [`Route`] is given out only for a message
//! that the kernel has: one that is [placed](Routes::place) is on its way there until it is [settled](Routes::settle) or
//! [taken back](Routes::take_back), and meanwhile nobody gets it. Locking: none of its own; see `publisher.rs`.

use super::index::Index;
use super::prefetch;
use super::table::{gsi, index};
use crate::interrupt::Interrupt;
use crate::router::Route;

/// What the routing table holds, and what it has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteCounters {
    /// Routes that the VM has room for, besides the irqchip's.
    pub capacity: usize,
    /// Messages that are published.
    pub published: usize,
    /// Of these, the ones that some vector uses.
    pub in_use: usize,
    /// Times the table was handed to the kernel.
    pub commits: u64,
    /// Messages that it had then, of all times together.
    pub handed_over: u64,
    /// Times a message was wanted that was published already.
    pub hits: u64,
    /// Unused messages that gave their room to another one.
    pub evictions: u64,
    /// The most commits that ended while one caller waited for its messages, the one that carried them included: two, if
    /// one was under way when it came, and never more.
    pub longest_wait: u64,
}

#[derive(Debug)]
struct Slot {
    message: Interrupt,
    users: u32,
    /// The kernel does not have it yet.
    on_its_way: bool,
}

/// A message that was put in a place of the table, and the one that it had before.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRoute {
    pub(super) index: usize,
    pub(super) message: Interrupt,
    pub(super) before: Option<Interrupt>,
}

#[derive(Debug)]
pub(super) struct Routes {
    slots: Vec<Slot>,
    index: Index,
    /// What is on its way, in the order in which it was placed.
    placed: Vec<PendingRoute>,
    vcpus: u32,
    /// Where the search for an unused message goes on.
    hand: usize,
    /// Messages that ever were in the table.
    ever: u64,
    counters: RouteCounters,
}

impl Routes {
    pub(super) fn new(capacity: usize, vcpus: u32) -> Self {
        Self {
            slots: Vec::new(),
            index: Index::default(),
            placed: Vec::new(),
            vcpus,
            hand: 0,
            ever: 0,
            counters: RouteCounters { capacity, ..Default::default() },
        }
    }

    pub(super) fn counters(&self) -> RouteCounters {
        RouteCounters { published: self.len(), ..self.counters }
    }

    /// Messages in the table, with those on their way.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many of them could give their room to another one.
    pub(super) fn unused(&self) -> usize {
        self.len().saturating_sub(self.counters.in_use).saturating_sub(self.placed.len())
    }

    /// How many entries have no message.
    pub(super) fn spare(&self) -> usize {
        self.counters.capacity.saturating_sub(self.len())
    }

    /// True where the table has such an entry.
    pub(super) fn has_spare(&self) -> bool {
        self.spare() > 0
    }

    /// How many messages there can be.
    pub(super) fn capacity(&self) -> usize {
        self.counters.capacity
    }

    /// For how many vCPUs' messages the table is.
    pub(super) fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// How many messages of a destination are published ahead at the most: an even share.
    pub(super) fn share(&self) -> usize {
        let capacity = self.counters.capacity;
        capacity.checked_div(self.vcpus as usize).unwrap_or(capacity).clamp(1, prefetch::DEVICE_VECTORS.len())
    }

    /// Whether the next commit would leave the table handed over more than two and a half times for each message that
    /// it ever had.
    pub(super) fn is_handed_over_too_often(&self) -> bool {
        let handed = self.counters.handed_over.saturating_add(self.len() as u64);
        handed.saturating_mul(2) > self.ever.saturating_mul(5)
    }

    /// One use of a message that the kernel has.
    pub(super) fn acquire(&mut self, message: Interrupt) -> Option<Route> {
        let index = self.index.get(message)?;
        let slot = self.slots.get_mut(index).filter(|slot| !slot.on_its_way)?;
        self.counters.in_use = self.counters.in_use.saturating_add((slot.users == 0).into());
        slot.users = slot.users.saturating_add(1);
        Some(Route::new(gsi(index), message))
    }

    /// The same, of a message that is found there and costs no commit.
    pub(super) fn find(&mut self, message: Interrupt) -> Option<Route> {
        let route = self.acquire(message)?;
        self.counters.hits = self.counters.hits.saturating_add(1);
        Some(route)
    }

    pub(super) fn withdraw(&mut self, route: &Route) {
        if let Some(slot) = self.slots.get_mut(index(route.gsi())) {
            slot.users = slot.users.saturating_sub(1);
            self.counters.in_use = self.counters.in_use.saturating_sub((slot.users == 0).into());
        }
    }

    /// Whether a message is in the table, or on its way.
    pub(super) fn has(&self, message: Interrupt) -> bool {
        self.index.get(message).is_some()
    }

    /// Whether a message is in the table that the kernel has.
    pub(super) fn has_settled(&self, message: Interrupt) -> bool {
        self.index.get(message).and_then(|index| self.slots.get(index)).is_some_and(|slot| !slot.on_its_way)
    }

    /// Puts a message in the table that is not there: in an unused entry, or in that of a message that nobody uses,
    /// from which every irqfd is detached. Nothing where there is neither.
    pub(super) fn place(&mut self, message: Interrupt) {
        let slot = Slot { message, users: 0, on_its_way: true };
        let (index, before) = if self.has_spare() {
            let index = self.len();
            if !self.index.insert(message, index) {
                return;
            }
            self.slots.push(slot);
            (index, None)
        } else {
            if self.has(message) {
                return;
            }
            let Some(index) = self.next_unused() else { return };
            let Some(place) = self.slots.get_mut(index) else { return };
            let before = std::mem::replace(place, slot).message;
            self.index.remove(before);
            self.index.insert(message, index);
            self.counters.evictions = self.counters.evictions.saturating_add(1);
            (index, Some(before))
        };
        self.placed.push(PendingRoute { index, message, before });
        self.ever = self.ever.saturating_add(1);
    }

    fn next_unused(&mut self) -> Option<usize> {
        if self.unused() == 0 {
            return None;
        }
        let (before, after) = self.slots.split_at_checked(self.hand)?;
        let is_unused = |slot: &Slot| slot.users == 0 && !slot.on_its_way;
        let place = after.iter().chain(before).position(is_unused)?;
        let index = self.hand.saturating_add(place).checked_rem(self.len())?;
        self.hand = index.saturating_add(1).checked_rem(self.len())?;
        Some(index)
    }

    /// What is on its way.
    pub(super) fn placed(&self) -> &[PendingRoute] {
        &self.placed
    }

    /// The kernel has what was on its way.
    pub(super) fn settle(&mut self) {
        for PendingRoute { index, .. } in self.placed.drain(..) {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.on_its_way = false;
            }
        }
        self.counters.commits = self.counters.commits.saturating_add(1);
        self.counters.handed_over = self.counters.handed_over.saturating_add(self.slots.len() as u64);
    }

    /// The kernel has refused what was on its way: the state is what it still has.
    pub(super) fn take_back(&mut self) {
        self.ever = self.ever.saturating_sub(self.placed.len() as u64);
        for PendingRoute { index, message, before } in self.placed.drain(..).rev() {
            self.index.remove(message);
            match (before, self.slots.get_mut(index)) {
                (Some(message), Some(slot)) => {
                    self.counters.evictions = self.counters.evictions.saturating_sub(1);
                    *slot = Slot { message, users: 0, on_its_way: false };
                    self.index.insert(message, index);
                }
                _ => self.slots.truncate(index),
            }
        }
    }
}

#[cfg(test)]
impl Routes {
    /// What is in which place, and used by so many; nothing is on its way.
    pub(super) fn settled(&self) -> Vec<(Interrupt, u32)> {
        assert!(self.placed.is_empty() && self.slots.iter().all(|slot| !slot.on_its_way));
        assert_eq!(self.index.len(), self.slots.len());
        for (index, slot) in self.slots.iter().enumerate() {
            assert_eq!(self.index.get(slot.message), Some(index), "{:?}", slot.message);
        }
        self.slots.iter().map(|slot| (slot.message, slot.users)).collect()
    }
}
