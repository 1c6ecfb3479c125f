//! The VM's routing table: a table of *messages*, each with one GSI, shared by all vectors that send it.
//!
//! A vector costs an irqfd and no commit where its message is in the table already. So a message that is
//! missing is published together with its neighbours (same destination and modes, the vectors that a guest
//! will use next, and then the next destinations), as many as there are already, and one that nobody uses stays until its room is needed. Invariant: `table` is what the
//! kernel has, and `published`, `slots` and `table` agree; a refused commit leaves all three as before.

use std::collections::HashSet;
use std::io;

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};

use super::irqchip::Irqchip;
use super::published::Published;
use crate::apic::ApicMessage;
use crate::message::MsiMessage;
use crate::router::{Gsi, Route, RouterError};

/// The vectors that guests give to devices: below are exceptions, above are the guest's own.
const DEVICE_VECTORS: std::ops::RangeInclusive<u8> = 0x20..=0xef;

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
    /// Times a message was wanted that was published already.
    pub hits: u64,
    /// Unused messages that gave their room to another one.
    pub evictions: u64,
}

#[derive(Debug)]
struct Slot {
    message: ApicMessage,
    users: u32,
}

/// What a batch put where, to be undone if the kernel refuses it: slot, and the message it had before.
type Placed = Vec<(usize, Option<ApicMessage>)>;

#[derive(Debug)]
pub(super) struct Routes {
    table: KvmIrqRouting,
    /// Where the messages begin in `table`.
    pin_routes: usize,
    slots: Vec<Slot>,
    published: Published,
    /// How many messages of a destination are published ahead: an even share.
    block: usize,
    vcpus: u32,
    /// Where the search for an unused message goes on.
    hand: usize,
    counters: RouteCounters,
}

impl Routes {
    pub(super) fn new(irqchip: Irqchip, vcpus: u32) -> Self {
        let capacity = irqchip.message_routes();
        let pins: Vec<_> = irqchip.pin_routes().collect();
        #[allow(clippy::expect_used, reason = "at most 40 entries, at start; a table has room for 4096")]
        let table = KvmIrqRouting::from_entries(&pins).expect("the pins' routes fit in a table");
        Self {
            table,
            pin_routes: pins.len(),
            slots: Vec::new(),
            published: Published::default(),
            block: capacity.checked_div(vcpus as usize).unwrap_or(capacity).clamp(1, DEVICE_VECTORS.len()),
            vcpus,
            hand: 0,
            counters: RouteCounters { capacity, ..Default::default() },
        }
    }

    pub(super) fn counters(&self) -> RouteCounters {
        RouteCounters { published: self.slots.len(), ..self.counters }
    }

    pub(super) fn publish(
        &mut self,
        messages: &[ApicMessage],
        routes: &mut Vec<Result<Route, RouterError>>,
        commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>,
    ) {
        let mut placed = Placed::new();
        routes.clear();
        routes.extend(messages.iter().map(|message| self.acquire(*message, &mut placed)));
        if placed.is_empty() {
            return;
        }
        self.publish_neighbours(&mut placed);
        if let Err(source) = self.commit(&placed, commit) {
            let failed: HashSet<u32> = placed.iter().map(|(slot, _)| gsi(*slot).0).collect();
            let entries = self.table.as_slice().len();
            for route in routes.iter_mut() {
                if route.as_ref().is_ok_and(|route| failed.contains(&route.gsi().0)) {
                    *route = Err(RouterError::Commit { routes: entries, source: same(&source) });
                }
            }
            self.undo(placed);
        }
    }

    pub(super) fn publish_destinations(
        &mut self,
        apic_ids: impl IntoIterator<Item = u8>,
        commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>,
    ) -> Result<(), RouterError> {
        let mut placed = Placed::new();
        for message in apic_ids.into_iter().flat_map(|id| ApicMessage::fixed(id, DEVICE_VECTORS)) {
            self.publish_ahead(message, &mut 0, &mut placed);
        }
        if placed.is_empty() {
            return Ok(());
        }
        self.commit(&placed, commit).map_err(|source| {
            let routes = self.table.as_slice().len();
            self.undo(placed);
            RouterError::Commit { routes, source }
        })
    }

    pub(super) fn withdraw(&mut self, route: Route) {
        let index = route.gsi().0.saturating_sub(Irqchip::FIRST_GSI) as usize;
        if let Some(slot) = self.slots.get_mut(index) {
            slot.users = slot.users.saturating_sub(1);
            self.counters.in_use = self.counters.in_use.saturating_sub((slot.users == 0).into());
        }
    }

    /// One use of a message, which gets a place where it has none yet.
    fn acquire(&mut self, message: ApicMessage, placed: &mut Placed) -> Result<Route, RouterError> {
        let index = match self.published.get(message) {
            Some(index) => {
                self.counters.hits = self.counters.hits.saturating_add(1);
                index
            }
            None => self
                .place(message, placed)
                .ok_or(RouterError::NoRoom { message, routes: self.counters.capacity })?,
        };
        if let Some(slot) = self.slots.get_mut(index) {
            self.counters.in_use = self.counters.in_use.saturating_add((slot.users == 0).into());
            slot.users = slot.users.saturating_add(1);
        }
        Ok(Route::new(gsi(index), message))
    }

    /// Finds room: a new route, or that of a message that nobody uses. Every irqfd of that one is detached.
    fn place(&mut self, message: ApicMessage, placed: &mut Placed) -> Option<usize> {
        if self.slots.len() < self.counters.capacity {
            return Some(self.append(message, placed));
        }
        let index = self.next_unused()?;
        let slot = self.slots.get_mut(index)?;
        self.published.remove(slot.message);
        placed.push((index, Some(slot.message)));
        slot.message = message;
        self.published.insert(message, index);
        self.counters.evictions = self.counters.evictions.saturating_add(1);
        Some(index)
    }

    fn append(&mut self, message: ApicMessage, placed: &mut Placed) -> usize {
        let index = self.slots.len();
        self.slots.push(Slot { message, users: 0 });
        self.published.insert(message, index);
        placed.push((index, None));
        index
    }

    fn next_unused(&mut self) -> Option<usize> {
        if self.counters.in_use >= self.slots.len() {
            return None;
        }
        let (before, after) = self.slots.split_at_checked(self.hand)?;
        let place = after.iter().chain(before).position(|slot| slot.users == 0)?;
        let index = self.hand.saturating_add(place).checked_rem(self.slots.len())?;
        self.hand = index.saturating_add(1).checked_rem(self.slots.len())?;
        Some(index)
    }

    /// Publishes a message that nobody has asked for, where there is room to spare, or for one of so many others
    /// that nobody uses.
    fn publish_ahead(&mut self, message: ApicMessage, evictable: &mut usize, placed: &mut Placed) {
        if self.published.get(message).is_some() {
            return;
        }
        if self.slots.len() < self.counters.capacity {
            self.append(message, placed);
        } else if *evictable > 0 {
            *evictable = evictable.saturating_sub(1);
            self.place(message, placed);
        }
    }

    /// The messages that a guest will most likely want after those that were placed: guests hand out the
    /// vectors of a destination in ascending order, and after one destination the next. Its destination's first, and
    /// then as many as there were before: so what a guest wants one by one costs few commits, and each message is
    /// handed to the kernel about twice.
    ///
    /// In a full table they take the room of messages that were used once, of their own destination only: else each
    /// further message would cost a commit of the full table. Of a batch only the first message of each destination
    /// counts, or a large one would look each neighbour up for each of its messages.
    fn publish_neighbours(&mut self, placed: &mut Placed) {
        let wanted: Vec<ApicMessage> =
            placed.iter().filter_map(|(index, _)| Some(self.slots.get(*index)?.message)).collect();
        let ahead = self.slots.len().saturating_sub(placed.len()).max(self.block);
        let enough = self.slots.len().saturating_add(ahead).saturating_sub(1);
        // The hand goes round once at the most, so that it does not come to what this batch has placed.
        let mut evictable = self.slots.len().saturating_sub(self.counters.in_use);
        let mut destinations = HashSet::new();
        let last = wanted.last().copied();
        let first_of_destination = |message: &ApicMessage| destinations.insert(message.with_vector(u8::MAX));
        for message in wanted.into_iter().filter(first_of_destination) {
            self.publish_block(message, enough, &mut evictable, placed);
        }
        let (mut message, mut left) = (last, self.vcpus);
        while let Some(next) = message.and_then(|message| message.next_destination(self.vcpus))
            && left > 0
            && self.slots.len() < enough.min(self.counters.capacity)
        {
            self.publish_block(next, enough, &mut 0, placed);
            (message, left) = (Some(next), left.saturating_sub(1));
        }
    }

    /// Publishes a message's neighbours of the same destination, until there are so many messages.
    fn publish_block(
        &mut self,
        message: ApicMessage,
        enough: usize,
        evictable: &mut usize,
        placed: &mut Placed,
    ) {
        let vector = message.message().data as u8;
        let rest = (vector..=*DEVICE_VECTORS.end()).chain(*DEVICE_VECTORS.start()..vector);
        for neighbour in rest.take(self.block).filter_map(|vector| message.with_vector(vector)) {
            if self.slots.len() < enough {
                self.publish_ahead(neighbour, evictable, placed);
            }
        }
    }

    /// Brings the table up to date and hands it to the kernel.
    fn commit(
        &mut self,
        placed: &Placed,
        commit: impl FnOnce(&KvmIrqRouting) -> io::Result<()>,
    ) -> io::Result<()> {
        for (index, _) in placed {
            self.write_entry(*index)?;
        }
        commit(&self.table)?;
        self.counters.commits = self.counters.commits.saturating_add(1);
        Ok(())
    }

    fn write_entry(&mut self, index: usize) -> io::Result<()> {
        let Some(slot) = self.slots.get(index) else { return Ok(()) };
        let entry = msi_route(gsi(index), slot.message.message());
        match self.table.as_mut_slice().get_mut(self.pin_routes.saturating_add(index)) {
            Some(place) => *place = entry,
            None => self.table.push(entry).map_err(|_| io::ErrorKind::OutOfMemory)?,
        }
        Ok(())
    }

    /// Takes a refused batch back, last first, so that the state is what the kernel still has.
    fn undo(&mut self, placed: Placed) {
        for (index, before) in placed.into_iter().rev() {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            self.counters.in_use = self.counters.in_use.saturating_sub((slot.users > 0).into());
            self.published.remove(slot.message);
            slot.users = 0;
            match before {
                Some(message) => {
                    slot.message = message;
                    self.published.insert(message, index);
                    // The entry exists: nothing to allocate.
                    let _ = self.write_entry(index);
                }
                None => self.slots.truncate(index),
            }
        }
        let mut left = self.pin_routes.saturating_add(self.slots.len());
        self.table.retain(|_| {
            let keep = left > 0;
            left = left.saturating_sub(1);
            keep
        });
    }
}

/// The same error once more, for each vector that it befell.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn gsi(index: usize) -> Gsi {
    Gsi(Irqchip::FIRST_GSI.saturating_add(index as u32))
}

fn msi_route(gsi: Gsi, message: MsiMessage) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi: gsi.0,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: message.address_low(),
                address_hi: message.address_high(),
                data: message.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
