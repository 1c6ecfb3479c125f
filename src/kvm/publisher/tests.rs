//! The routing table against a kernel that takes or refuses it. Its one promise: a route that is given out is in
//! the table that the kernel has, and stays as long as someone uses it.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Mutex;

use kvm_bindings::{KVM_IRQ_ROUTING_MSI, kvm_irq_routing_entry};
use proptest::prelude::*;

use super::*;
use crate::kvm::table::gsi;
use crate::message::MsiMessage;
use crate::router::Gsi;

mod threads;

const IRQCHIP: Irqchip = Irqchip::EACH[0];

impl Publisher {
    /// As on every KVM so far, which takes tables of 4096 entries.
    fn new(irqchip: Irqchip, vcpus: u32) -> Self {
        Self::with_capacity(irqchip, irqchip.message_routes(4096), vcpus)
    }
}

/// The kernel's side of KVM_SET_GSI_ROUTING.
#[derive(Debug, Default)]
struct Kernel(Mutex<Taken>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Taken {
    /// GSIs of the irqchip's pins.
    pins: Vec<u32>,
    messages: BTreeMap<Gsi, Interrupt>,
}

impl Kernel {
    fn take(&self, table: &KvmIrqRouting) -> io::Result<()> {
        let mut taken = Taken::default();
        for entry in table.as_slice() {
            match message_of(entry) {
                None => taken.pins.push(entry.gsi),
                Some(message) => {
                    let before = taken.messages.insert(Gsi(entry.gsi), message);
                    assert_eq!(before, None, "a GSI twice, which KVM refuses");
                }
            }
        }
        *self.0.lock().unwrap() = taken;
        Ok(())
    }

    fn refuse(_: &KvmIrqRouting) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(12))
    }

    fn taken(&self) -> Taken {
        self.0.lock().unwrap().clone()
    }

    fn message(&self, gsi: Gsi) -> Option<Interrupt> {
        self.0.lock().unwrap().messages.get(&gsi).copied()
    }

    fn messages(&self) -> usize {
        self.0.lock().unwrap().messages.len()
    }
}

fn message_of(entry: &kvm_irq_routing_entry) -> Option<Interrupt> {
    if entry.type_ != KVM_IRQ_ROUTING_MSI {
        return None;
    }
    // SAFETY: the entry's type says that this member of the union is there.
    let msi = unsafe { entry.u.msi };
    Some(Interrupt::new(MsiMessage::from_registers(msi.address_lo, msi.address_hi, msi.data)))
}

fn message(destination: u32, vector: u8) -> Interrupt {
    let message = MsiMessage { address: u64::from(0xfee0_0000 | destination << 12), data: vector.into() };
    Interrupt::new(message)
}

fn publish(
    publisher: &Publisher,
    kernel: &Kernel,
    messages: &[Interrupt],
) -> Vec<Result<Route, RouterError>> {
    let mut answers = Vec::new();
    publisher.publish(messages, &mut answers, |table| kernel.take(table));
    answers
}

fn publish_one(publisher: &Publisher, kernel: &Kernel, message: Interrupt) -> Route {
    publish(publisher, kernel, &[message]).pop().unwrap().unwrap()
}

/// A table that is full, of messages that nobody uses: 20 destinations.
fn full() -> (Publisher, Kernel) {
    let (routes, kernel) = (Publisher::new(IRQCHIP, 20), Kernel::default());
    routes.publish_destinations(0..20, |table| kernel.take(table)).unwrap();
    assert_eq!(routes.counters().published, routes.counters().capacity);
    (routes, kernel)
}

#[test]
fn the_first_message_is_published_with_the_next_ones_of_its_destination() {
    let (routes, kernel) = (Publisher::new(IRQCHIP, 4), Kernel::default());
    let first = publish_one(&routes, &kernel, message(1, 0x41));
    assert_eq!(kernel.message(first.gsi()), Some(message(1, 0x41)));
    assert_eq!(kernel.messages(), 64);
    for vector in 0x41..0x41 + 64 {
        let route = publish_one(&routes, &kernel, message(1, vector));
        assert_eq!(kernel.message(route.gsi()), Some(message(1, vector)));
    }
    assert_eq!(routes.counters().commits, 1);
}

#[test]
fn while_a_guest_grows_the_message_that_comes_next_is_published_with_twice_as_many_as_there_are() {
    let (routes, kernel) = (Publisher::new(IRQCHIP, 4), Kernel::default());
    for vector in 0x30..0x30 + 64 {
        let _ = publish_one(&routes, &kernel, message(1, vector));
    }
    let _ = publish_one(&routes, &kernel, message(1, 0x30 + 64));
    assert_eq!((kernel.messages(), routes.counters().commits), (65 + 2 * 64, 2));
    // What comes next only after one that is on its way itself brings none.
    let _ = publish(&routes, &kernel, &[message(3, 0x20), message(3, 0x21)]);
    assert_eq!((kernel.messages(), routes.counters().commits), (65 + 2 * 64 + 2, 3));
    assert_agreement(&routes, &kernel);
}

#[test]
fn one_message_more_is_published_alone_and_the_next_one_with_twice_as_many_as_there_are() {
    let (routes, kernel) = (Publisher::new(IRQCHIP, 4), Kernel::default());
    let batch: Vec<_> = (0x20..0x20 + 100).map(|vector| message(0, vector)).collect();
    let _ = publish(&routes, &kernel, &batch);
    assert_eq!(kernel.messages(), 100, "what is wanted at once is enough");
    let _ = publish_one(&routes, &kernel, message(2, 0x20));
    assert_eq!(kernel.messages(), 101);
    let _ = publish_one(&routes, &kernel, message(2, 0x30));
    assert_eq!(kernel.messages(), 102 + 2 * 101);
    assert_eq!(routes.counters().commits, 3);
    for vector in 0x30..0x30 + 180 {
        let _ = publish_one(&routes, &kernel, message(2, vector));
    }
    assert_eq!(routes.counters().commits, 3);
    assert_agreement(&routes, &kernel);
}

#[test]
fn in_whatever_order_messages_are_wanted_each_is_handed_over_three_times_at_the_most() {
    let in_order = (0..2048).map(|n| (n / 200, n % 200));
    let by_turns = (0..2048).map(|n| (n % 11, n / 11));
    let scattered = (0..2048).map(|n| n * 1021 % 2048).map(|n| (n % 11, n / 11));
    let wanted: [(u64, Vec<(u32, u32)>); 3] =
        [(4, in_order.collect()), (5, by_turns.collect()), (5, scattered.collect())];
    for (expected, wanted) in wanted {
        let (routes, kernel) = (Publisher::new(IRQCHIP, 11), Kernel::default());
        for (destination, vector) in wanted {
            let _ = publish_one(&routes, &kernel, message(destination, 0x24 + vector as u8));
        }
        let RouteCounters { commits, handed_over, published, .. } = routes.counters();
        assert_eq!(commits, expected);
        assert!(handed_over <= 3 * published as u64, "{handed_over} for {published}");
        assert_agreement(&routes, &kernel);
    }
}

#[test]
fn all_that_a_guest_can_have_is_published_by_few_commits() {
    for logical in [0, 4] {
        let (routes, kernel) = (Publisher::new(IRQCHIP, 8), Kernel::default());
        for vector in DEVICE_VECTORS {
            for cpu in 0..8 {
                let destination = if logical == 0 { cpu } else { 1 << cpu };
                let address = 0xfee0_0000u64 | destination << 12 | logical;
                let message = Interrupt::new(MsiMessage { address, data: vector.into() });
                let _ = publish_one(&routes, &kernel, message);
            }
        }
        let RouteCounters { commits, published, evictions, .. } = routes.counters();
        assert_eq!(commits, 5);
        assert_eq!((published, evictions), (8 * DEVICE_VECTORS.len(), 0), "and nothing that it cannot have");
    }
}

#[test]
fn every_destination_of_many_gets_its_share_of_the_table() {
    let (routes, kernel) = (Publisher::new(IRQCHIP, 64), Kernel::default());
    for destination in 0..64 {
        let _ = publish_one(&routes, &kernel, message(destination, 0x30));
    }
    let share = routes.counters().capacity / 64;
    assert_eq!(kernel.messages(), 64 * share);
    for destination in 0..64 {
        for vector in 0x30..0x30 + share as u8 {
            let _ = publish_one(&routes, &kernel, message(destination, vector));
        }
    }
    assert_eq!(routes.counters().commits, 6);
    assert_eq!(routes.counters().evictions, 0);
}

#[test]
fn messages_of_one_batch_cost_one_commit() {
    let (routes, kernel) = (Publisher::new(IRQCHIP, 11), Kernel::default());
    let batch: Vec<_> =
        (0..11).flat_map(|destination| DEVICE_VECTORS.map(move |v| message(destination, v))).collect();
    let answers = publish(&routes, &kernel, &batch);
    for (message, route) in batch.iter().zip(answers) {
        assert_eq!(kernel.message(route.unwrap().gsi()), Some(*message));
    }
    assert_eq!(routes.counters().commits, 1);
}

#[test]
fn equal_messages_share_a_route_until_the_last_of_them_is_withdrawn() {
    let (routes, kernel) = full();
    let first = publish_one(&routes, &kernel, message(0, 0x41));
    let second = routes.find(message(0, 0x41)).unwrap();
    assert_eq!(first.gsi(), second.gsi());
    assert_eq!(routes.counters().in_use, 1);
    routes.withdraw(&first);
    assert_eq!(routes.counters().in_use, 1);
    for destination in 100..140 {
        let batch: Vec<_> = DEVICE_VECTORS.map(|vector| message(destination, vector)).collect();
        for route in publish(&routes, &kernel, &batch) {
            routes.withdraw(&route.unwrap());
        }
    }
    assert_eq!(kernel.message(second.gsi()), Some(message(0, 0x41)), "in use, so never evicted");
    routes.withdraw(&second);
    assert_eq!(routes.counters().in_use, 0);
}

#[test]
fn every_commit_carries_the_irqchips_pins() {
    for irqchip in Irqchip::EACH {
        let (routes, kernel) = (Publisher::new(irqchip, 1), Kernel::default());
        for destination in 0..3 {
            let _ = publish_one(&routes, &kernel, message(destination, 0x41));
            let Taken { pins: carried, messages } = kernel.taken();
            assert!(carried.iter().copied().eq(irqchip.pin_routes().map(|entry| entry.gsi)));
            assert!(messages.keys().all(|gsi| gsi.0 >= Irqchip::FIRST_GSI), "pins have their own GSIs");
        }
    }
}

#[test]
fn in_a_full_table_messages_and_their_block_take_the_room_of_unused_ones_by_two_commits() {
    let (routes, kernel) = full();
    let share = routes.shared().routes.share();
    let used = publish_one(&routes, &kernel, message(0, 0x20));
    let before = routes.counters();
    for vector in 0x20..=0x20 + share as u8 {
        let route = publish_one(&routes, &kernel, message(200, vector));
        assert_eq!(kernel.message(route.gsi()), Some(message(200, vector)));
    }
    let RouteCounters { evictions, published, capacity, commits, .. } = routes.counters();
    assert_eq!((evictions, commits), (share as u64 + 1, before.commits + 2), "one alone, and then its block");
    assert_eq!(published, capacity);
    assert_eq!(kernel.message(used.gsi()), Some(message(0, 0x20)));

    // The next destination takes what comes next in the table, not what was placed just now.
    let _ = publish_one(&routes, &kernel, message(201, 0x20));
    let _ = publish_one(&routes, &kernel, message(200, 0x21));
    assert_eq!(routes.counters().commits, before.commits + 3);
    assert_agreement(&routes, &kernel);
}

#[test]
fn neighbours_take_no_more_room_than_is_unused() {
    let (routes, kernel) = full();
    let batch: Vec<_> = kernel.taken().messages.values().skip(10).copied().collect();
    let in_use = publish(&routes, &kernel, &batch);
    let route = publish_one(&routes, &kernel, message(200, 0x20));
    assert_eq!(kernel.message(route.gsi()), Some(message(200, 0x20)));
    assert_eq!(routes.counters().evictions, 1);
    let _ = publish_one(&routes, &kernel, message(200, 0x21));
    assert_eq!(routes.counters().evictions, 10);
    for route in in_use.into_iter().map(Result::unwrap) {
        assert_eq!(kernel.message(route.gsi()), Some(route.message()));
    }
    assert_agreement(&routes, &kernel);
}

#[test]
fn a_message_without_room_is_refused_alone_and_has_it_when_another_is_withdrawn() {
    let (routes, kernel) = full();
    let batch: Vec<_> = kernel.taken().messages.values().copied().collect();
    let mut in_use: Vec<_> = publish(&routes, &kernel, &batch).into_iter().map(Result::unwrap).collect();

    let mixed = [batch[7], message(200, 0x20), batch[8]];
    let mut answers = publish(&routes, &kernel, &mixed);
    assert!(
        matches!(&answers[1], Err(RouterError::NoRoom { routes, .. }) if *routes == batch.len()),
        "{:?}",
        answers[1]
    );
    in_use.extend(answers.drain(..).filter_map(Result::ok));
    assert_eq!(in_use.len(), batch.len() + 2);

    let freed = in_use.swap_remove(1000);
    let gsi = freed.gsi();
    routes.withdraw(&freed);
    assert_eq!(publish_one(&routes, &kernel, message(200, 0x20)).gsi(), gsi);
    assert_eq!(kernel.message(gsi), Some(message(200, 0x20)));
    for route in in_use {
        assert_eq!(kernel.message(route.gsi()), Some(route.message()), "the others keep theirs");
    }
}

#[test]
fn a_refused_commit_fails_what_is_new_and_leaves_all_else_as_it_was() {
    for (routes, kernel) in [full(), (Publisher::new(IRQCHIP, 20), Kernel::default())] {
        let old = publish_one(&routes, &kernel, message(3, 0x50));
        let before = (routes.counters().published, routes.counters().in_use, kernel.messages());

        let mut answers = Vec::new();
        let batch = [message(3, 0x50), message(200, 0x20), message(200, 0x20), message(3, 0x51)];
        routes.publish(&batch, &mut answers, Kernel::refuse);
        assert_eq!(answers[0].as_ref().unwrap().gsi(), old.gsi(), "it was there already");
        assert!(matches!(&answers[1], Err(RouterError::Commit { .. })));
        assert!(matches!(&answers[2], Err(RouterError::Commit { .. })));
        assert!(answers[3].is_ok());
        answers.into_iter().flatten().for_each(|route| routes.withdraw(&route));
        let after = (routes.counters().published, routes.counters().in_use, kernel.messages());
        assert_eq!(before, after);
        assert_agreement(&routes, &kernel);

        let retried = publish_one(&routes, &kernel, message(200, 0x20));
        assert_eq!(kernel.message(retried.gsi()), Some(message(200, 0x20)));
        assert_eq!(kernel.message(old.gsi()), Some(message(3, 0x50)));
        assert_agreement(&routes, &kernel);
    }
}

#[test]
fn a_refused_commit_of_whole_destinations_leaves_nothing_behind() {
    let (routes, kernel) = (Publisher::new(IRQCHIP, 2), Kernel::default());
    let refused = routes.publish_destinations(0..2, Kernel::refuse);
    assert!(matches!(refused, Err(RouterError::Commit { .. })));
    let capacity = IRQCHIP.message_routes(4096);
    assert_eq!(routes.counters(), RouteCounters { capacity, longest_wait: 1, ..Default::default() });
    routes.publish_destinations(0..2, |table| kernel.take(table)).unwrap();
    assert_eq!(kernel.messages(), 2 * DEVICE_VECTORS.len());
}

#[test]
fn destinations_that_are_published_already_cost_no_commit() {
    let (routes, _) = full();
    routes.publish_destinations(0..20, |_| panic!("nothing is new")).unwrap();
}

/// What the module promises of its state: routes, table and kernel say the same.
fn assert_agreement(publisher: &Publisher, kernel: &Kernel) {
    let settled = publisher.shared().routes.settled();
    for (index, (message, _)) in settled.iter().enumerate() {
        assert_eq!(kernel.message(gsi(index)), Some(*message));
    }
    assert_eq!(kernel.messages(), settled.len());
    assert_eq!(publisher.counters().in_use, settled.iter().filter(|(_, users)| *users > 0).count());
    let next = Kernel::default();
    next.take(publisher.shared().table.as_ref().unwrap().entries()).unwrap();
    assert_eq!(next.taken(), kernel.taken(), "the next commit changes nothing of it");
}

#[derive(Clone, Debug)]
enum Step {
    Find { destination: u32, vector: u8 },
    Publish { destination: u32, vectors: Vec<u8>, refused: bool },
    Withdraw(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let vectors = prop::collection::vec(16u8.., 1..300);
    prop_oneof![
        1 => (15u32..25, 16u8..).prop_map(|(destination, vector)| Step::Find { destination, vector }),
        2 => (15u32..40, vectors, prop::bool::weighted(0.3))
            .prop_map(|(destination, vectors, refused)| Step::Publish { destination, vectors, refused }),
        1 => any::<prop::sample::Index>().prop_map(Step::Withdraw),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_route_in_use_is_in_the_kernels_table_whatever_happens(steps in prop::collection::vec(step(), 1..40)) {
        let (routes, kernel) = full();
        let mut in_use: Vec<Route> = Vec::new();
        for step in steps {
            match step {
                Step::Find { destination, vector } => {
                    let message = message(destination, vector);
                    let found = routes.find(message);
                    prop_assert_eq!(found.is_some(), kernel.taken().messages.values().any(|taken| *taken == message));
                    in_use.extend(found);
                }
                Step::Publish { destination, vectors, refused } => {
                    let batch: Vec<_> = vectors.iter().map(|vector| message(destination, *vector)).collect();
                    let mut answers = Vec::new();
                    routes.publish(&batch, &mut answers, |table| {
                        if refused { Kernel::refuse(table) } else { kernel.take(table) }
                    });
                    for (message, answer) in batch.into_iter().zip(answers) {
                        if let Ok(route) = answer {
                            prop_assert_eq!(route.message(), message);
                            in_use.push(route);
                        }
                    }
                }
                Step::Withdraw(index) if !in_use.is_empty() => {
                    for _ in 0..in_use.len().div_ceil(2) {
                        routes.withdraw(&in_use.swap_remove(index.index(in_use.len())));
                    }
                }
                Step::Withdraw(_) => {}
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
