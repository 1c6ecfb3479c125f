//! The choice of messages to publish together with the messages that callers need.
//!
//! A commit passes the whole table to the hypervisor. With one commit for each message, N messages would cost
//! N². On the other hand, each message that is never used makes every commit more expensive. The default is
//! to prefetch nothing, so a vector that moves to another CPU costs one commit of the present table. Two
//! signs of growth change that:
//!
//! - The needed message follows a message that is in force. This happens while a guest requests vectors.
//! - Each message would have been in more than two and a half committed tables on average.
//!
//! In these cases, twice as many messages are prefetched as the table had. If the guest can have few more
//! than that, all of its messages are prefetched. n messages therefore cost about log n commits, in any
//! order.
//!
//! Owns nothing: it adds messages to the [`Routes`] of the caller. No lock.

use std::collections::HashSet;

use super::routes::{DEVICE_VECTORS, PendingRoute, Routes};
use crate::interrupt::Interrupt;

/// The smallest table that is worth a commit.
const FIRST: usize = 64;

/// Adds the messages that a guest will most likely need after the pending ones. Guests allocate the vectors
/// of a destination in ascending order, and use one destination after another.
///
/// If the table is full, the neighbours of a pending message replace unused messages. Otherwise each further
/// message would cost a commit of the full table. Only the first pending message of each destination counts.
/// Otherwise a large batch would look up each neighbour once for each of its messages.
pub(super) fn add(routes: &mut Routes) {
    let follows_one_in_force =
        |pending: &PendingRoute| predecessor(pending.key).is_some_and(|key| routes.is_in_force(key));
    let any_follows = || routes.pending().iter().any(follows_one_in_force);
    if routes.len() >= FIRST && !routes.is_handed_over_too_often() && !any_follows() {
        return;
    }
    let wanted: Vec<Interrupt> = routes.pending().iter().map(|pending| pending.key).collect();
    let before_commit = routes.len().saturating_sub(wanted.len());
    let mut enough = routes.len().saturating_add(before_commit.saturating_mul(2)).max(FIRST);
    // Otherwise the last two commits would be of nearly the same size.
    if enough.saturating_mul(4) >= most_messages(routes).saturating_mul(3) {
        enough = enough.max(most_messages(routes));
    }
    let mut destinations = HashSet::new();
    for message in wanted.iter().filter(|message| destinations.insert(message.with_vector(u8::MAX))) {
        let evictable = routes.unused();
        add_block(routes, *message, enough, evictable);
    }
    let (mut message, mut left) = (wanted.last().copied(), routes.vcpus());
    while let Some(next) = message.and_then(|message| message.next_destination(routes.vcpus()))
        && left > 0
        && routes.len() < enough
        && routes.has_spare()
    {
        add_block(routes, next, enough, 0);
        (message, left) = (Some(next), left.saturating_sub(1));
    }
}

/// The most messages that a guest can have: an even share for each vCPU.
fn most_messages(routes: &Routes) -> usize {
    routes.share().saturating_mul(routes.vcpus() as usize)
}

/// The message that a guest allocates before this one.
fn predecessor(message: Interrupt) -> Option<Interrupt> {
    message.with_vector(vector(message).checked_sub(1)?)
}

fn vector(message: Interrupt) -> u8 {
    message.message().data as u8
}

/// Adds the neighbours of a message, with the same destination, until the table has `enough` messages. They
/// get new slots, and then the slots of up to `evictable` unused messages.
fn add_block(routes: &mut Routes, message: Interrupt, enough: usize, mut evictable: usize) {
    let vector = vector(message);
    let rest = (vector..=*DEVICE_VECTORS.end()).chain(*DEVICE_VECTORS.start()..vector);
    for neighbour in rest.take(routes.share()).filter_map(|vector| message.with_vector(vector)) {
        if routes.len() >= enough {
            return;
        }
        if routes.add_in_new_slot(neighbour).is_ok() || routes.has(neighbour) {
            continue;
        }
        if evictable == 0 {
            return;
        }
        evictable = evictable.saturating_sub(1);
        routes.add(neighbour);
    }
}
