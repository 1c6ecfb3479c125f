//! Where each published message is in the routing table.
//!
//! By destination and modes first, of which a guest has few, and then by vector: a message is found without hashing
//! what a guest wrote, and a block of neighbours is put in place by one search. Costs 512 bytes for each destination
//! that has a message published, so at most 2 MiB for a full table of 4096.

use std::collections::BTreeMap;

use crate::interrupt::Interrupt;
use crate::message::MsiMessage;

/// The vector is the lowest byte of a message's data.
const VECTORS: u32 = 0xff;

/// Places of messages.
#[derive(Debug, Default)]
pub(super) struct Index(BTreeMap<MsiMessage, Destination>);

/// The messages that differ in their vector only.
#[derive(Debug)]
struct Destination {
    /// By vector. A table has 4096 entries, so none is at the highest number: that one says that there is none.
    places: Box<[u16; 256]>,
    count: u16,
}

const NOWHERE: u16 = u16::MAX;

fn split(message: Interrupt) -> (MsiMessage, usize) {
    let MsiMessage { address, data } = message.message();
    (MsiMessage { address, data: data & !VECTORS }, (data & VECTORS) as usize)
}

impl Index {
    pub(super) fn get(&self, message: Interrupt) -> Option<usize> {
        let (destination, vector) = split(message);
        let place = *self.0.get(&destination)?.places.get(vector)?;
        (place != NOWHERE).then_some(place.into())
    }

    /// True where it had no place before; one that has keeps it.
    pub(super) fn insert(&mut self, message: Interrupt, place: usize) -> bool {
        let (destination, vector) = split(message);
        let empty = || Destination { places: Box::new([NOWHERE; 256]), count: 0 };
        let Destination { places, count } = self.0.entry(destination).or_insert_with(empty);
        let vacant = places.get_mut(vector).filter(|place| **place == NOWHERE);
        let (Some(vacant), Ok(place)) = (vacant, u16::try_from(place)) else { return false };
        *vacant = place;
        *count = count.saturating_add(1);
        true
    }

    pub(super) fn remove(&mut self, message: Interrupt) {
        let (destination, vector) = split(message);
        let Some(Destination { places, count }) = self.0.get_mut(&destination) else { return };
        if let Some(place) = places.get_mut(vector).filter(|place| **place != NOWHERE) {
            *place = NOWHERE;
            *count = count.saturating_sub(1);
        }
        if *count == 0 {
            self.0.remove(&destination);
        }
    }
}

#[cfg(test)]
impl Index {
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|destination| usize::from(destination.count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(address: u64, data: u32) -> Interrupt {
        Interrupt::new(MsiMessage { address, data })
    }

    #[test]
    fn messages_that_differ_in_anything_have_places_of_their_own() {
        let differing = [
            message(0xfee0_0000, 0x41),
            message(0xfee0_0000, 0x42),
            message(0xfee0_1000, 0x41),
            message(0xfee0_0000, 0x0141),
            message(0xfee0_0000, 0x1_0041),
        ];
        let mut index = Index::default();
        for (place, message) in differing.into_iter().enumerate() {
            assert_eq!(index.get(message), None);
            index.insert(message, place);
        }
        assert!(differing.into_iter().map(|message| index.get(message)).eq((0..5).map(Some)));
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
        assert!(index.0.is_empty());
    }
}
