//! Which messages are published together with those that a caller wants.
//!
//! A commit hands the whole table over. One commit for each message would make N messages cost N², and each message that is never
//! used makes every commit dearer. The rule: prefetch nothing, so that a vector that moves to another CPU costs a commit of what
//! there is. Two signs of growth change that. Either the wanted message follows one that is in force, as while a guest requests
//! vectors; or each message would have been in more than two and a half committed tables on average. Then twice as many messages
//! as there are get prefetched, or all that a guest can have if that is not many more. n messages therefore cost about log n commits,
//! in whatever order they are wanted.
//!
//! Owns nothing: it places messages in the [`Routes`] of the caller. No lock.

use std::collections::HashSet;

use super::routes::{DEVICE_VECTORS, PendingRoute, Routes};
use crate::interrupt::Interrupt;

/// A smaller table is not worth a commit.
const FIRST: usize = 64;

/// Places the messages that a guest will most likely want after the pending ones: guests hand out the vectors of a destination in
/// ascending order, and after one destination the next.
///
/// In a full table, prefetched messages of the pending one's destination take the room of messages that nobody uses. Otherwise each
/// further message would cost a commit of the full table. Only the first pending message of each destination counts: a
/// large batch would look each neighbour up for each of its messages.
pub(super) fn place(routes: &mut Routes) {
    let comes_next = |pending: &PendingRoute| before(pending.key).is_some_and(|key| routes.is_in_force(key));
    let any_comes_next = || routes.pending().iter().any(comes_next);
    if routes.len() >= FIRST && !routes.is_handed_over_too_often() && !any_comes_next() {
        return;
    }
    let wanted: Vec<Interrupt> = routes.pending().iter().map(|pending| pending.key).collect();
    let there_were = routes.len().saturating_sub(wanted.len());
    let mut enough = routes.len().saturating_add(there_were.saturating_mul(2)).max(FIRST);
    // Otherwise the last commit but one would be nearly as large as the last.
    if enough.saturating_mul(4) >= all(routes).saturating_mul(3) {
        enough = enough.max(all(routes));
    }
    let mut destinations = HashSet::new();
    for message in wanted.iter().filter(|message| destinations.insert(message.with_vector(u8::MAX))) {
        let evictable = routes.unused();
        block(routes, *message, enough, evictable);
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

/// Places a message's neighbours of the same destination until the table has `enough` messages: in new slots, and in those of up to
/// `evictable` unused messages.
fn block(routes: &mut Routes, message: Interrupt, enough: usize, mut evictable: usize) {
    let vector = vector(message);
    let rest = (vector..=*DEVICE_VECTORS.end()).chain(*DEVICE_VECTORS.start()..vector);
    for neighbour in rest.take(routes.share()).filter_map(|vector| message.with_vector(vector)) {
        if routes.len() >= enough {
            return;
        }
        if routes.place_in_new_slot(neighbour).is_ok() || routes.has(neighbour) {
            continue;
        }
        if evictable == 0 {
            return;
        }
        evictable = evictable.saturating_sub(1);
        routes.place(neighbour);
    }
}
