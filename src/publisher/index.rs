//! The slot of each published message.
//!
//! The index has two levels. The first is the destination with its modes, of which a guest has few. The
//! second is the vector. A look-up does not hash guest data, and a block of neighbours is inserted with one
//! search. Invariant: a destination is in the map while it has a message. Each destination costs 512 bytes:
//! at most 2 MiB for a full table of 4096. Locking: none of its own; see `mod.rs`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::counter::Increment;
use crate::interrupt::{DeviceId, Interrupt};
use crate::message::MsiMessage;

/// The vector is the lowest byte of a message's data.
const VECTORS: u32 = 0xff;

/// The slot of a vector that has none.
const NO_SLOT: u16 = u16::MAX;

/// The largest number of slots.
pub(super) const MAX_SLOTS: usize = NO_SLOT as usize;

/// Slots by message. The key of a destination is its message with vector 0.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Messages without a device ID.
    without_device: BTreeMap<MsiMessage, Block>,
    of_devices: BTreeMap<(DeviceId, MsiMessage), Block>,
}

/// Messages that differ only in their vector.
#[derive(Debug)]
struct Block {
    /// The slot of each vector.
    slots: Box<[u16; 256]>,
    count: u16,
}

impl Block {
    fn new() -> Self {
        Self { slots: Box::new([NO_SLOT; 256]), count: 0 }
    }

    fn get(&self, vector: usize) -> Option<usize> {
        let slot = *self.slots.get(vector)?;
        (slot != NO_SLOT).then_some(slot.into())
    }

    fn remove(&mut self, vector: usize) {
        if let Some(slot) = self.slots.get_mut(vector).filter(|slot| **slot != NO_SLOT) {
            *slot = NO_SLOT;
            self.count = self.count.saturating_sub(1);
        }
    }
}

fn split(key: Interrupt) -> (MsiMessage, usize) {
    let MsiMessage { address, data } = key.message();
    (MsiMessage { address, data: data & !VECTORS }, (data & VECTORS) as usize)
}

impl Index {
    /// Always inlined: the three look-ups of each published message take a third of the time to publish it.
    #[inline(always)]
    pub(super) fn get(&self, key: Interrupt) -> Option<usize> {
        let (destination, vector) = split(key);
        match key.device() {
            None => self.without_device.get(&destination)?.get(vector),
            Some(device) => self.get_of_device(device, destination, vector),
        }
    }

    #[cold]
    fn get_of_device(&self, device: DeviceId, destination: MsiMessage, vector: usize) -> Option<usize> {
        self.of_devices.get(&(device, destination))?.get(vector)
    }

    /// Returns whether the message was inserted. A message that has a slot keeps it.
    pub(super) fn insert(&mut self, key: Interrupt, slot: usize) -> bool {
        let (destination, vector) = split(key);
        let block = match key.device() {
            None => self.without_device.entry(destination).or_insert_with(Block::new),
            Some(device) => self.of_devices.entry((device, destination)).or_insert_with(Block::new),
        };
        let vacant = block.slots.get_mut(vector).filter(|slot| **slot == NO_SLOT);
        let (Some(vacant), Ok(slot)) = (vacant, u16::try_from(slot)) else { return false };
        *vacant = slot;
        block.count.increment();
        true
    }

    pub(super) fn remove(&mut self, key: Interrupt) {
        let (destination, vector) = split(key);
        match key.device() {
            None => remove(&mut self.without_device, destination, vector),
            Some(device) => remove(&mut self.of_devices, (device, destination), vector),
        }
    }
}

fn remove<K: Ord>(blocks: &mut BTreeMap<K, Block>, destination: K, vector: usize) {
    if let Entry::Occupied(mut block) = blocks.entry(destination) {
        block.get_mut().remove(vector);
        if block.get().count == 0 {
            block.remove();
        }
    }
}

#[cfg(test)]
impl Index {
    pub(super) fn len(&self) -> usize {
        let blocks = self.without_device.values().chain(self.of_devices.values());
        blocks.map(|block| usize::from(block.count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(address: u64, data: u32) -> Interrupt {
        Interrupt::new(MsiMessage { address, data })
    }

    #[test]
    fn messages_that_differ_in_anything_have_slots_of_their_own() {
        let differing = [
            message(0xfee0_0000, 0x41),
            message(0xfee0_0000, 0x42),
            message(0xfee0_1000, 0x41),
            message(0xfee0_0000, 0x0141),
            message(0xfee0_0000, 0x1_0041),
            message(0xfee0_0000, 0x41).sent_by(DeviceId(0)),
            message(0xfee0_0000, 0x41).sent_by(DeviceId(8)),
        ];
        let mut index = Index::default();
        for (slot, message) in differing.into_iter().enumerate() {
            assert_eq!(index.get(message), None);
            index.insert(message, slot);
        }
        assert!(differing.into_iter().map(|message| index.get(message)).eq((0..7).map(Some)));
    }

    #[test]
    fn a_destination_costs_nothing_once_its_last_message_is_gone() {
        let (one, other) = (message(0xfee0_0000, 0x41), message(0xfee0_0000, 0x42));
        let mut index = Index::default();
        assert!(index.insert(one, 7));
        assert!(!index.insert(one, 8));
        assert_eq!(index.get(one), Some(7));
        assert!(index.insert(other, 9));
        index.remove(one);
        index.remove(one);
        assert_eq!((index.get(one), index.get(other)), (None, Some(9)));
        index.remove(other);
        assert!(index.without_device.is_empty());
    }
}
