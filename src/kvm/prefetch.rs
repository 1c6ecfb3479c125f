//! What is published with the messages that are wanted, before anybody asks for it.
//!
//! A commit hands the whole table over, so one for each message would make N messages cost N²; and each message that
//! nobody asks for makes every commit dearer. Hence: nothing ahead, so that a vector that moves costs a commit of what
//! there is; until a message comes next after one that there is, as while a guest grows, or in all each message would have
//! been handed over more than two and a half times. Then twice as many ahead as there are, or all that a guest can have where
//! that is not many more. So n messages cost about log n commits, in whatever order they are wanted.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use super::routes::{PendingRoute, Routes};
use crate::interrupt::Interrupt;

/// The vectors that guests give to devices: below are exceptions, above are the guest's own.
pub(super) const DEVICE_VECTORS: RangeInclusive<u8> = 0x20..=0xef;

/// A smaller table is not worth a commit.
const FIRST: usize = 64;

/// Places what a guest will most likely want after what was placed just now: guests hand out the vectors of a
/// destination in ascending order, and after one destination the next.
///
/// In a full table they take the room of messages that were used once, of their own destination only: else each
/// further message would cost a commit of the full table. Of a batch only the first message of each destination
/// counts, or a large one would look each neighbour up for each of its messages.
pub(super) fn place(routes: &mut Routes) {
    let comes_next =
        |placed: &PendingRoute| before(placed.message).is_some_and(|message| routes.has_settled(message));
    let any_comes_next = || routes.placed().iter().any(comes_next);
    if routes.len() >= FIRST && !routes.is_handed_over_too_often() && !any_comes_next() {
        return;
    }
    let wanted: Vec<Interrupt> = routes.placed().iter().map(|placed| placed.message).collect();
    let there_were = routes.len().saturating_sub(wanted.len());
    let mut enough = routes.len().saturating_add(there_were.saturating_mul(2)).max(FIRST);
    // The last commit but one would be nearly as large as the last.
    if enough.saturating_mul(4) >= all(routes).saturating_mul(3) {
        enough = enough.max(all(routes));
    }
    let mut destinations = HashSet::new();
    for message in wanted.iter().filter(|message| destinations.insert(message.with_vector(u8::MAX))) {
        block(routes, *message, enough, routes.unused());
    }
    let (mut message, mut left) = (wanted.last().copied(), routes.vcpus());
    while let Some(next) = message.and_then(|message| message.next_destination(routes.vcpus()))
        && left > 0
        && routes.len() < enough
        && routes.has_spare()
    {
        block(routes, next, enough, 0);
        (message, left) = (Some(next), left.saturating_sub(1));
    }
}

/// How many messages a guest can have: an even share for each vCPU.
fn all(routes: &Routes) -> usize {
    routes.share().saturating_mul(routes.vcpus() as usize)
}

/// The message that a guest hands out before this one.
fn before(message: Interrupt) -> Option<Interrupt> {
    message.with_vector(vector(message).checked_sub(1)?)
}

fn vector(message: Interrupt) -> u8 {
    message.message().data as u8
}

/// Places a message's neighbours of the same destination until there are so many messages, in spare entries and so many
/// others.
fn block(routes: &mut Routes, message: Interrupt, enough: usize, mut evictable: usize) {
    let vector = vector(message);
    let rest = (vector..=*DEVICE_VECTORS.end()).chain(*DEVICE_VECTORS.start()..vector);
    for neighbour in rest.take(routes.share()).filter_map(|vector| message.with_vector(vector)) {
        if routes.len() >= enough {
            return;
        }
        if !routes.has_spare() {
            if routes.has(neighbour) {
                continue;
            }
            if evictable == 0 {
                return;
            }
            evictable = evictable.saturating_sub(1);
        }
        routes.place(neighbour);
    }
}
