//! The publisher over a fake hypervisor. Its guarantee: a returned route is in the table that is in force,
//! and stays there while it is in use.

use std::collections::HashSet;
use std::io;

use proptest::prelude::*;

use super::*;
use crate::interrupt::DeviceId;
use crate::message::MsiMessage;
use crate::router::Gsi;
use fake::{Kernel, Taken};

mod fake;
mod own_entries;
mod threads;

/// The entries of KVM with all interrupt controllers in the kernel.
const CAPACITY: usize = 4056;
const FIRST_GSI: u32 = 24;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;

/// A publisher, and its hypervisor.
fn publisher(vcpus: u32) -> (Publisher<Kernel>, Kernel) {
    let kernel = Kernel::default();
    let publisher = Publisher::new(kernel.clone(), (FIRST_GSI..4096).map(Gsi), CAPACITY, vcpus);
    (publisher.with_own_entries((0..FIRST_GSI).collect()), kernel)
}

fn message(destination: u32, vector: u8) -> Interrupt {
    let message = MsiMessage { address: u64::from(0xfee0_0000 | destination << 12), data: vector.into() };
    Interrupt::new(message)
}

fn publish(publisher: &Publisher<Kernel>, messages: &[Interrupt]) -> Vec<Result<Route, RouterError>> {
    let mut answers = Vec::new();
    publisher.get_or_publish(messages, &mut answers);
    answers
}

fn publish_one(publisher: &Publisher<Kernel>, message: Interrupt) -> Route {
    publish(publisher, &[message]).pop().unwrap().unwrap()
}

/// The messages that [`KvmRouter::publish_destinations`](crate::kvm::KvmRouter::publish_destinations)
/// publishes.
fn destinations(apic_ids: impl IntoIterator<Item = u32>) -> impl Iterator<Item = Interrupt> {
    apic_ids.into_iter().flat_map(|id| DEVICE_VECTORS.map(move |vector| message(id, vector)))
}

/// A full table of unused messages: 20 destinations.
fn full() -> (Publisher<Kernel>, Kernel) {
    let (routes, kernel) = publisher(20);
    routes.prefetch(destinations(0..20)).unwrap();
    assert_eq!(routes.counters().published, routes.counters().capacity);
    (routes, kernel)
}

#[test]
fn the_first_message_is_published_with_the_next_ones_of_its_destination() {
    let (routes, kernel) = publisher(4);
    let first = publish_one(&routes, message(1, 0x41));
    assert_eq!(kernel.message(first.gsi()), Some(message(1, 0x41)));
    assert_eq!(kernel.messages(), 64);
    for vector in 0x41..0x41 + 64 {
        let route = publish_one(&routes, message(1, vector));
        assert_eq!(kernel.message(route.gsi()), Some(message(1, vector)));
    }
    assert_eq!(routes.counters().commits, 1);
}

#[test]
fn while_a_guest_grows_the_next_message_is_published_with_twice_as_many_as_there_are() {
    let (routes, kernel) = publisher(4);
    for vector in 0x30..0x30 + 64 {
        let _ = publish_one(&routes, message(1, vector));
    }
    let _ = publish_one(&routes, message(1, 0x30 + 64));
    assert_eq!((kernel.messages(), routes.counters().commits), (65 + 2 * 64, 2));
    // A message that follows a pending one prefetches nothing.
    let _ = publish(&routes, &[message(3, 0x20), message(3, 0x21)]);
    assert_eq!((kernel.messages(), routes.counters().commits), (65 + 2 * 64 + 2, 3));
    assert_agreement(&routes, &kernel);
}

#[test]
fn a_further_message_is_published_alone_and_the_next_one_with_twice_as_many_as_there_are() {
    let (routes, kernel) = publisher(4);
    let batch: Vec<_> = (0x20..0x20 + 100).map(|vector| message(0, vector)).collect();
    let _ = publish(&routes, &batch);
    assert_eq!(kernel.messages(), 100, "what is wanted at once is enough");
    let _ = publish_one(&routes, message(2, 0x20));
    assert_eq!(kernel.messages(), 101);
    let _ = publish_one(&routes, message(2, 0x30));
    assert_eq!(kernel.messages(), 102 + 2 * 101);
    assert_eq!(routes.counters().commits, 3);
    for vector in 0x30..0x30 + 180 {
        let _ = publish_one(&routes, message(2, vector));
    }
    assert_eq!(routes.counters().commits, 3);
    assert_agreement(&routes, &kernel);
}

#[test]
fn each_message_is_handed_over_at_most_three_times_in_any_order() {
    let in_order = (0..2048).map(|n| (n / 200, n % 200));
    let by_turns = (0..2048).map(|n| (n % 11, n / 11));
    let scattered = (0..2048).map(|n| n * 1021 % 2048).map(|n| (n % 11, n / 11));
    let wanted: [(u64, Vec<(u32, u32)>); 3] =
        [(4, in_order.collect()), (5, by_turns.collect()), (5, scattered.collect())];
    for (expected, wanted) in wanted {
        let (routes, kernel) = publisher(11);
        for (destination, vector) in wanted {
            let _ = publish_one(&routes, message(destination, 0x24 + vector as u8));
        }
        let RouteCounters { commits, handed_over, published, .. } = routes.counters();
        assert_eq!(commits, expected);
        assert!(handed_over <= 3 * published as u64, "{handed_over} for {published}");
        assert_agreement(&routes, &kernel);
    }
}

#[test]
fn all_messages_of_a_guest_are_published_by_few_commits() {
    for logical in [0, 4] {
        let (routes, _kernel) = publisher(8);
        for vector in DEVICE_VECTORS {
            for cpu in 0..8 {
                let destination = if logical == 0 { cpu } else { 1 << cpu };
                let address = 0xfee0_0000u64 | destination << 12 | logical;
                let message = Interrupt::new(MsiMessage { address, data: vector.into() });
                let _ = publish_one(&routes, message);
            }
        }
        let RouteCounters { commits, published, evictions, .. } = routes.counters();
        assert_eq!(commits, 5);
        assert_eq!((published, evictions), (8 * DEVICE_VECTORS.len(), 0), "and nothing that it cannot have");
    }
}

#[test]
fn every_destination_of_many_gets_its_share_of_the_table() {
    let (routes, kernel) = publisher(64);
    for destination in 0..64 {
        let _ = publish_one(&routes, message(destination, 0x30));
    }
    let share = routes.counters().capacity / 64;
    assert_eq!(kernel.messages(), 64 * share);
    for destination in 0..64 {
        for vector in 0x30..0x30 + share as u8 {
            let _ = publish_one(&routes, message(destination, vector));
        }
    }
    assert_eq!(routes.counters().commits, 6);
    assert_eq!(routes.counters().evictions, 0);
}

#[test]
fn messages_of_one_batch_cost_one_commit() {
    let (routes, kernel) = publisher(11);
    let batch: Vec<_> =
        (0..11).flat_map(|destination| DEVICE_VECTORS.map(move |v| message(destination, v))).collect();
    let answers = publish(&routes, &batch);
    for (message, route) in batch.iter().zip(answers) {
        assert_eq!(kernel.message(route.unwrap().gsi()), Some(*message));
    }
    assert_eq!(routes.counters().commits, 1);
}

#[test]
fn equal_messages_share_a_route_until_the_last_of_them_is_put() {
    let (routes, kernel) = full();
    let first = publish_one(&routes, message(0, 0x41));
    let second = routes.get(message(0, 0x41)).unwrap();
    assert_eq!(first.gsi(), second.gsi());
    assert_eq!(routes.counters().in_use, 1);
    routes.put(first);
    assert_eq!(routes.counters().in_use, 1);
    for destination in 100..140 {
        let batch: Vec<_> = DEVICE_VECTORS.map(|vector| message(destination, vector)).collect();
        for route in publish(&routes, &batch) {
            routes.put(route.unwrap());
        }
    }
    assert_eq!(kernel.message(second.gsi()), Some(message(0, 0x41)), "in use, so never evicted");
    routes.put(second);
    assert_eq!(routes.counters().in_use, 0);
}

#[test]
fn in_a_full_table_messages_and_their_block_take_the_room_of_unused_ones_by_two_commits() {
    let (routes, kernel) = full();
    let share = routes.shared.lock().routes.share();
    let used = publish_one(&routes, message(0, 0x20));
    let before = routes.counters();
    for vector in 0x20..=0x20 + share as u8 {
        let route = publish_one(&routes, message(200, vector));
        assert_eq!(kernel.message(route.gsi()), Some(message(200, vector)));
    }
    let RouteCounters { evictions, published, capacity, commits, .. } = routes.counters();
    assert_eq!((evictions, commits), (share as u64 + 1, before.commits + 2), "one alone, and then its block");
    assert_eq!(published, capacity);
    assert_eq!(kernel.message(used.gsi()), Some(message(0, 0x20)));

    // The next destination replaces the next unused messages of the table, not those that were just added.
    let _ = publish_one(&routes, message(201, 0x20));
    let _ = publish_one(&routes, message(200, 0x21));
    assert_eq!(routes.counters().commits, before.commits + 3);
    assert_agreement(&routes, &kernel);
}

#[test]
fn neighbours_take_no_more_room_than_is_unused() {
    let (routes, kernel) = full();
    let batch: Vec<_> = kernel.taken().messages.values().skip(10).copied().collect();
    let in_use = publish(&routes, &batch);
    let route = publish_one(&routes, message(200, 0x20));
    assert_eq!(kernel.message(route.gsi()), Some(message(200, 0x20)));
    assert_eq!(routes.counters().evictions, 1);
    let _ = publish_one(&routes, message(200, 0x21));
    assert_eq!(routes.counters().evictions, 10);
    for route in in_use.into_iter().map(Result::unwrap) {
        assert_eq!(kernel.message(route.gsi()), Some(route.message()));
    }
    assert_agreement(&routes, &kernel);
}

#[test]
fn a_message_without_room_is_refused_alone_and_has_it_when_another_is_put() {
    let (routes, kernel) = full();
    let batch: Vec<_> = kernel.taken().messages.values().copied().collect();
    let mut in_use: Vec<_> = publish(&routes, &batch).into_iter().map(Result::unwrap).collect();

    let mixed = [batch[7], message(200, 0x20), batch[8]];
    let mut answers = publish(&routes, &mixed);
    assert!(
        matches!(&answers[1], Err(RouterError::NoRoom { routes, .. }) if *routes == batch.len()),
        "{:?}",
        answers[1]
    );
    in_use.extend(answers.drain(..).filter_map(Result::ok));
    assert_eq!(in_use.len(), batch.len() + 2);

    let freed = in_use.swap_remove(1000);
    let gsi = freed.gsi();
    routes.put(freed);
    assert_eq!(publish_one(&routes, message(200, 0x20)).gsi(), gsi);
    assert_eq!(kernel.message(gsi), Some(message(200, 0x20)));
    for route in in_use {
        assert_eq!(kernel.message(route.gsi()), Some(route.message()), "the others keep theirs");
    }
}

#[test]
fn a_refused_commit_fails_new_messages_and_changes_nothing_else() {
    for (routes, kernel) in [full(), publisher(20)] {
        let old = publish_one(&routes, message(3, 0x50));
        let before = (routes.counters().published, routes.counters().in_use, kernel.messages());

        let mut answers = Vec::new();
        let batch = [message(3, 0x50), message(200, 0x20), message(200, 0x20), message(3, 0x51)];
        kernel.refuse(ENOMEM);
        routes.get_or_publish(&batch, &mut answers);
        kernel.take_all();
        assert_eq!(answers[0].as_ref().unwrap().gsi(), old.gsi(), "it was there already");
        assert!(matches!(&answers[1], Err(RouterError::Commit { .. })));
        assert!(matches!(&answers[2], Err(RouterError::Commit { .. })));
        assert!(answers[3].is_ok());
        answers.into_iter().flatten().for_each(|route| routes.put(route));
        let after = (routes.counters().published, routes.counters().in_use, kernel.messages());
        assert_eq!(before, after);
        assert_agreement(&routes, &kernel);

        let retried = publish_one(&routes, message(200, 0x20));
        assert_eq!(kernel.message(retried.gsi()), Some(message(200, 0x20)));
        assert_eq!(kernel.message(old.gsi()), Some(message(3, 0x50)));
        assert_agreement(&routes, &kernel);
    }
}

#[test]
fn a_refused_prefetch_leaves_nothing_behind() {
    let (routes, kernel) = publisher(2);
    kernel.refuse(ENOMEM);
    let refused = routes.prefetch(destinations(0..2));
    assert!(matches!(refused, Err(RouterError::Commit { .. })));
    assert_eq!(
        routes.counters(),
        RouteCounters { capacity: CAPACITY, longest_wait: 1, ..Default::default() }
    );
    kernel.take_all();
    routes.prefetch(destinations(0..2)).unwrap();
    assert_eq!(kernel.messages(), 2 * DEVICE_VECTORS.len());
}

#[test]
fn a_prefetch_of_published_messages_costs_no_commit() {
    let (routes, kernel) = full();
    let commits = kernel.commits();
    routes.prefetch(destinations(0..20)).unwrap();
    assert_eq!(kernel.commits(), commits);
}

#[test]
fn devices_that_send_the_same_message_have_routes_of_their_own() {
    let (routes, kernel) = publisher(4);
    let one = message(0, 0x41);
    let batch = [one, one.sent_by(DeviceId(8)), one.sent_by(DeviceId(9)), one.sent_by(DeviceId(8))];
    let answers: Vec<_> = publish(&routes, &batch).into_iter().map(Result::unwrap).collect();
    for (interrupt, route) in batch.iter().zip(&answers) {
        assert_eq!((kernel.message(route.gsi()), route.message()), (Some(*interrupt), *interrupt));
    }
    assert_eq!(answers[1].gsi(), answers[3].gsi());
    assert_eq!(routes.counters().in_use, 3);
    assert_agreement(&routes, &kernel);
}

/// A hypervisor that ignores device IDs.
struct WithoutDevices(Kernel);

impl Hypervisor for WithoutDevices {
    type Entry = u32;

    fn key(interrupt: Interrupt) -> Interrupt {
        Interrupt::new(interrupt.message())
    }

    fn commit(&mut self, table: RoutingTable<'_, u32>) -> io::Result<()> {
        self.0.commit(table)
    }
}

#[test]
fn where_the_hypervisor_ignores_devices_they_share_a_route_and_each_is_told_its_own_message() {
    let kernel = Kernel::default();
    let routes = Publisher::new(WithoutDevices(kernel.clone()), (0..).map(Gsi), 64, 1);
    let devices = [DeviceId(8), DeviceId(9)].map(|device| message(0, 0x41).sent_by(device));
    kernel.refuse(EINVAL);
    let mut answers = Vec::new();
    routes.get_or_publish(&devices, &mut answers);
    assert!(answers.iter().all(|answer| matches!(answer, Err(RouterError::Commit { .. }))), "{answers:?}");
    kernel.take_all();
    routes.get_or_publish(&devices, &mut answers);
    answers.extend(devices.map(|interrupt| Ok(routes.get(interrupt).unwrap())));
    for (interrupt, answer) in devices.iter().cycle().zip(answers) {
        let route = answer.unwrap();
        assert_eq!((route.gsi(), route.message()), (Gsi(0), *interrupt));
        assert_eq!(kernel.message(route.gsi()), Some(message(0, 0x41)));
    }
    assert_eq!(routes.counters().in_use, 1);
}

#[test]
fn messages_have_the_embedders_gsis_and_no_others() {
    let kernel = Kernel::default();
    let gsis = [Gsi(70), Gsi(40), Gsi(40), Gsi(71)];
    let routes = Publisher::new(kernel.clone(), gsis.into_iter(), CAPACITY, 1);
    let route = publish_one(&routes, message(0, 0x41));
    assert_eq!((route.gsi(), kernel.messages()), (Gsi(70), 2), "a GSI that comes twice counts as none");
    let other = publish_one(&routes, message(1, 0x41));
    assert_eq!((other.gsi(), kernel.messages()), (Gsi(71), 3));
    let third = publish_one(&routes, message(2, 0x41));
    assert_eq!(third.gsi(), Gsi(40), "that of a message that nobody uses");
    let refused = publish(&routes, &[message(3, 0x41)]).pop().unwrap();
    assert!(matches!(refused, Err(RouterError::NoRoom { .. })));
    routes.put(other);
    assert_eq!(publish_one(&routes, message(3, 0x41)).gsi(), Gsi(71));
    assert_agreement(&routes, &kernel);
}

/// Checks the module's invariant: routes, table and kernel agree.
fn assert_agreement(publisher: &Publisher<Kernel>, kernel: &Kernel) {
    let committed = publisher.shared.lock().routes.committed();
    for (gsi, message, _) in &committed {
        assert_eq!(kernel.message(*gsi), Some(*message));
    }
    assert_eq!(kernel.messages(), committed.len());
    assert_eq!(publisher.counters().in_use, committed.iter().filter(|(.., users)| *users > 0).count());
    let next = publisher.shared.lock().table.as_ref().unwrap().routes().to_vec();
    assert_eq!(kernel.taken().messages, next.into_iter().collect(), "the next commit changes nothing of it");
}

#[derive(Clone, Debug)]
enum Step {
    Get { destination: u32, vector: u8 },
    Publish { destination: u32, vectors: Vec<u8>, refused: bool },
    Put(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let vectors = prop::collection::vec(16u8.., 1..300);
    prop_oneof![
        1 => (15u32..25, 16u8..).prop_map(|(destination, vector)| Step::Get { destination, vector }),
        2 => (15u32..40, vectors, prop::bool::weighted(0.3))
            .prop_map(|(destination, vectors, refused)| Step::Publish { destination, vectors, refused }),
        1 => any::<prop::sample::Index>().prop_map(Step::Put),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_route_in_use_is_always_in_the_kernels_table(steps in prop::collection::vec(step(), 1..40)) {
        let (routes, kernel) = full();
        let mut in_use: Vec<Route> = Vec::new();
        for step in steps {
            match step {
                Step::Get { destination, vector } => {
                    let message = message(destination, vector);
                    let found = routes.get(message);
                    prop_assert_eq!(found.is_some(), kernel.taken().messages.values().any(|taken| *taken == message));
                    in_use.extend(found);
                }
                Step::Publish { destination, vectors, refused } => {
                    let batch: Vec<_> = vectors.iter().map(|vector| message(destination, *vector)).collect();
                    let mut answers = Vec::new();
                    if refused { kernel.refuse(ENOSPC) } else { kernel.take_all() }
                    routes.get_or_publish(&batch, &mut answers);
                    for (message, answer) in batch.into_iter().zip(answers) {
                        if let Ok(route) = answer {
                            prop_assert_eq!(route.message(), message);
                            in_use.push(route);
                        }
                    }
                }
                Step::Put(index) if !in_use.is_empty() => {
                    for _ in 0..in_use.len().div_ceil(2) {
                        routes.put(in_use.swap_remove(index.index(in_use.len())));
                    }
                }
                Step::Put(_) => {}
            }
            for route in &in_use {
                prop_assert_eq!(kernel.message(route.gsi()), Some(route.message()));
            }
            let distinct: HashSet<_> = in_use.iter().map(Route::message).collect();
            prop_assert_eq!(routes.counters().in_use, distinct.len());
            assert_agreement(&routes, &kernel);
        }
    }
}
