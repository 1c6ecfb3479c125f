//! The routing table against a kernel that takes or refuses it. Its one promise: a route that is given out is in
//! the table that the kernel has, and stays as long as someone uses it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use proptest::prelude::*;

use super::*;

/// The kernel's side of KVM_SET_GSI_ROUTING.
#[derive(Default)]
struct Kernel {
    /// GSIs of the irqchip's pins.
    pins: RefCell<Vec<u32>>,
    messages: RefCell<BTreeMap<Gsi, ApicMessage>>,
}

impl Kernel {
    fn take(&self, table: &KvmIrqRouting) -> io::Result<()> {
        let (mut pins, mut messages) = (Vec::new(), BTreeMap::new());
        for entry in table.as_slice() {
            match message_of(entry) {
                None => pins.push(entry.gsi),
                Some(message) => {
                    let before = messages.insert(Gsi(entry.gsi), message);
                    assert_eq!(before, None, "a GSI twice, which KVM refuses");
                }
            }
        }
        *self.pins.borrow_mut() = pins;
        *self.messages.borrow_mut() = messages;
        Ok(())
    }

    fn refuse(_: &KvmIrqRouting) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(12))
    }

    fn message(&self, gsi: Gsi) -> Option<ApicMessage> {
        self.messages.borrow().get(&gsi).copied()
    }

    fn messages(&self) -> usize {
        self.messages.borrow().len()
    }
}

fn message_of(entry: &kvm_irq_routing_entry) -> Option<ApicMessage> {
    if entry.type_ != KVM_IRQ_ROUTING_MSI {
        return None;
    }
    // SAFETY: the entry's type says that this member of the union is there.
    let msi = unsafe { entry.u.msi };
    Some(MsiMessage::from_registers(msi.address_lo, msi.address_hi, msi.data).try_into().unwrap())
}

fn message(destination: u32, vector: u8) -> ApicMessage {
    let message = MsiMessage { address: u64::from(0xfee0_0000 | destination << 12), data: vector.into() };
    message.try_into().unwrap()
}

fn publish(
    routes: &mut Routes,
    kernel: &Kernel,
    messages: &[ApicMessage],
) -> Vec<Result<Route, RouterError>> {
    let mut answers = Vec::new();
    routes.publish(messages, &mut answers, |table| kernel.take(table));
    answers
}

fn publish_one(routes: &mut Routes, kernel: &Kernel, message: ApicMessage) -> Route {
    publish(routes, kernel, &[message]).pop().unwrap().unwrap()
}

/// A table that is full, of messages that nobody uses: 20 destinations.
fn full() -> (Routes, Kernel) {
    let (mut routes, kernel) = (Routes::new(Irqchip::Kernel, 20), Kernel::default());
    routes.publish_destinations(0..20, |table| kernel.take(table)).unwrap();
    assert_eq!(routes.counters().published, routes.counters().capacity);
    (routes, kernel)
}

#[test]
fn a_message_is_published_with_all_that_its_destination_can_get() {
    let (mut routes, kernel) = (Routes::new(Irqchip::Kernel, 4), Kernel::default());
    let first = publish_one(&mut routes, &kernel, message(1, 0x41));
    assert_eq!(kernel.message(first.gsi()), Some(message(1, 0x41)));
    assert_eq!(kernel.messages(), DEVICE_VECTORS.len());
    for vector in DEVICE_VECTORS {
        let route = publish_one(&mut routes, &kernel, message(1, vector));
        assert_eq!(kernel.message(route.gsi()), Some(message(1, vector)));
    }
    assert_eq!(routes.counters().commits, 1);
}

#[test]
fn a_message_of_another_destination_doubles_what_is_published() {
    let (mut routes, kernel) = (Routes::new(Irqchip::Kernel, 4), Kernel::default());
    let _ = publish_one(&mut routes, &kernel, message(0, 0x20));
    let _ = publish_one(&mut routes, &kernel, message(1, 0x20));
    assert_eq!(kernel.messages(), 2 * DEVICE_VECTORS.len());
    let _ = publish_one(&mut routes, &kernel, message(2, 0x30));
    for message in
        (0..4).flat_map(|destination| DEVICE_VECTORS.map(move |vector| message(destination, vector)))
    {
        let _ = publish_one(&mut routes, &kernel, message);
    }
    assert_eq!(routes.counters().commits, 3);
    assert_eq!(kernel.messages(), 4 * DEVICE_VECTORS.len(), "and none that the guest cannot have");
    assert_agreement(&routes, &kernel);
}

#[test]
fn all_that_a_guest_can_have_is_published_by_few_commits() {
    for logical in [0, 4] {
        let (mut routes, kernel) = (Routes::new(Irqchip::Kernel, 8), Kernel::default());
        for vector in DEVICE_VECTORS {
            for cpu in 0..8 {
                let destination = if logical == 0 { cpu } else { 1 << cpu };
                let address = 0xfee0_0000u64 | destination << 12 | logical;
                let message = MsiMessage { address, data: vector.into() }.try_into().unwrap();
                let _ = publish_one(&mut routes, &kernel, message);
            }
        }
        let RouteCounters { commits, published, evictions, .. } = routes.counters();
        assert_eq!(commits, 4);
        assert_eq!((published, evictions), (8 * DEVICE_VECTORS.len(), 0), "and nothing that it cannot have");
    }
}

#[test]
fn every_destination_of_many_gets_its_share_of_the_table() {
    let (mut routes, kernel) = (Routes::new(Irqchip::Split, 64), Kernel::default());
    for destination in 0..64 {
        let _ = publish_one(&mut routes, &kernel, message(destination, 0x30));
    }
    let share = routes.counters().capacity / 64;
    assert_eq!(kernel.messages(), 64 * share);
    for destination in 0..64 {
        for vector in 0x30..0x30 + share as u8 {
            let _ = publish_one(&mut routes, &kernel, message(destination, vector));
        }
    }
    assert_eq!(routes.counters().commits, 7);
    assert_eq!(routes.counters().evictions, 0);
}

#[test]
fn messages_of_one_batch_cost_one_commit() {
    let (mut routes, kernel) = (Routes::new(Irqchip::Kernel, 11), Kernel::default());
    let batch: Vec<_> =
        (0..11).flat_map(|destination| DEVICE_VECTORS.map(move |v| message(destination, v))).collect();
    let answers = publish(&mut routes, &kernel, &batch);
    for (message, route) in batch.iter().zip(answers) {
        assert_eq!(kernel.message(route.unwrap().gsi()), Some(*message));
    }
    assert_eq!(routes.counters().commits, 1);
}

#[test]
fn equal_messages_share_a_route_until_the_last_of_them_is_withdrawn() {
    let (mut routes, kernel) = full();
    let first = publish_one(&mut routes, &kernel, message(0, 0x41));
    let second = publish_one(&mut routes, &kernel, message(0, 0x41));
    assert_eq!(first.gsi(), second.gsi());
    assert_eq!(routes.counters().in_use, 1);
    routes.withdraw(first);
    assert_eq!(routes.counters().in_use, 1);
    for destination in 100..140 {
        let batch: Vec<_> = DEVICE_VECTORS.map(|vector| message(destination, vector)).collect();
        for route in publish(&mut routes, &kernel, &batch) {
            routes.withdraw(route.unwrap());
        }
    }
    assert_eq!(kernel.message(second.gsi()), Some(message(0, 0x41)), "in use, so never evicted");
    routes.withdraw(second);
    assert_eq!(routes.counters().in_use, 0);
}

#[test]
fn every_commit_carries_the_irqchips_pins() {
    for (irqchip, pins) in [(Irqchip::Kernel, 40), (Irqchip::Split, 0)] {
        let (mut routes, kernel) = (Routes::new(irqchip, 1), Kernel::default());
        for destination in 0..3 {
            let _ = publish_one(&mut routes, &kernel, message(destination, 0x41));
            let carried = kernel.pins.borrow();
            assert!(carried.iter().copied().eq(irqchip.pin_routes().map(|entry| entry.gsi)));
            assert_eq!(carried.len(), pins);
            assert!(kernel.messages.borrow().keys().all(|gsi| gsi.0 >= 24), "pins have their own GSIs");
        }
    }
}

#[test]
fn in_a_full_table_a_message_and_its_block_take_the_room_of_unused_ones_by_one_commit() {
    let (mut routes, kernel) = full();
    let used = publish_one(&mut routes, &kernel, message(0, 0x20));
    let commits = routes.counters().commits;
    for vector in 0x20..0x20 + routes.block as u8 {
        let route = publish_one(&mut routes, &kernel, message(200, vector));
        assert_eq!(kernel.message(route.gsi()), Some(message(200, vector)));
    }
    let RouteCounters { evictions, published, capacity, commits: now, .. } = routes.counters();
    assert_eq!((evictions, published, now), (routes.block as u64, capacity, commits + 1));
    assert_eq!(kernel.message(used.gsi()), Some(message(0, 0x20)));

    // The next destination takes what comes next in the table, not what was placed just now.
    let _ = publish_one(&mut routes, &kernel, message(201, 0x20));
    let _ = publish_one(&mut routes, &kernel, message(200, 0x21));
    assert_eq!(routes.counters().commits, commits + 2);
    assert_agreement(&routes, &kernel);
}

#[test]
fn neighbours_take_no_more_room_than_is_unused() {
    let (mut routes, kernel) = full();
    let batch: Vec<_> = kernel.messages.borrow().values().skip(10).copied().collect();
    let in_use = publish(&mut routes, &kernel, &batch);
    let route = publish_one(&mut routes, &kernel, message(200, 0x20));
    assert_eq!(kernel.message(route.gsi()), Some(message(200, 0x20)));
    assert_eq!(routes.counters().evictions, 10);
    for route in in_use.into_iter().map(Result::unwrap) {
        assert_eq!(kernel.message(route.gsi()), Some(route.message()));
    }
    assert_agreement(&routes, &kernel);
}

#[test]
fn a_message_without_room_is_refused_alone_and_has_it_when_another_is_withdrawn() {
    let (mut routes, kernel) = full();
    let batch: Vec<_> = kernel.messages.borrow().values().copied().collect();
    let mut in_use: Vec<_> = publish(&mut routes, &kernel, &batch).into_iter().map(Result::unwrap).collect();

    let mixed = [batch[7], message(200, 0x20), batch[8]];
    let mut answers = publish(&mut routes, &kernel, &mixed);
    assert!(matches!(&answers[1], Err(RouterError::NoRoom { routes: 4056, .. })), "{:?}", answers[1]);
    in_use.extend(answers.drain(..).filter_map(Result::ok));
    assert_eq!(in_use.len(), batch.len() + 2);

    let freed = in_use.swap_remove(1000);
    let gsi = freed.gsi();
    routes.withdraw(freed);
    assert_eq!(publish_one(&mut routes, &kernel, message(200, 0x20)).gsi(), gsi);
    assert_eq!(kernel.message(gsi), Some(message(200, 0x20)));
    for route in in_use {
        assert_eq!(kernel.message(route.gsi()), Some(route.message()), "the others keep theirs");
    }
}

#[test]
fn a_refused_commit_fails_what_is_new_and_leaves_all_else_as_it_was() {
    for (mut routes, kernel) in [full(), (Routes::new(Irqchip::Kernel, 20), Kernel::default())] {
        let old = publish_one(&mut routes, &kernel, message(3, 0x50));
        let before = (routes.counters().published, routes.counters().in_use, kernel.messages());

        let mut answers = Vec::new();
        let batch = [message(3, 0x50), message(200, 0x20), message(200, 0x20), message(3, 0x51)];
        routes.publish(&batch, &mut answers, Kernel::refuse);
        assert_eq!(answers[0].as_ref().unwrap().gsi(), old.gsi(), "it was there already");
        assert!(matches!(&answers[1], Err(RouterError::Commit { .. })));
        assert!(matches!(&answers[2], Err(RouterError::Commit { .. })));
        assert!(answers[3].is_ok());
        answers.into_iter().flatten().for_each(|route| routes.withdraw(route));
        let after = (routes.counters().published, routes.counters().in_use, kernel.messages());
        assert_eq!(before, after);
        assert_agreement(&routes, &kernel);

        let retried = publish_one(&mut routes, &kernel, message(200, 0x20));
        assert_eq!(kernel.message(retried.gsi()), Some(message(200, 0x20)));
        assert_eq!(kernel.message(old.gsi()), Some(message(3, 0x50)));
        assert_agreement(&routes, &kernel);
    }
}

#[test]
fn a_refused_commit_of_whole_destinations_leaves_nothing_behind() {
    let (mut routes, kernel) = (Routes::new(Irqchip::Kernel, 2), Kernel::default());
    let refused = routes.publish_destinations(0..2, Kernel::refuse);
    assert!(matches!(refused, Err(RouterError::Commit { .. })));
    assert_eq!(routes.counters(), RouteCounters { capacity: 4056, ..Default::default() });
    routes.publish_destinations(0..2, |table| kernel.take(table)).unwrap();
    assert_eq!(kernel.messages(), 2 * DEVICE_VECTORS.len());
}

#[test]
fn destinations_that_are_published_already_cost_no_commit() {
    let (mut routes, _) = full();
    routes.publish_destinations(0..20, |_| panic!("nothing is new")).unwrap();
}

/// What the module promises of its state: slots, the messages' places, the table and the kernel say the same.
fn assert_agreement(routes: &Routes, kernel: &Kernel) {
    assert_eq!(routes.published.len(), routes.slots.len());
    for (index, slot) in routes.slots.iter().enumerate() {
        assert_eq!(routes.published.get(slot.message), Some(index), "{:?}", slot.message);
        assert_eq!(kernel.message(gsi(index)), Some(slot.message));
    }
    assert_eq!(kernel.messages(), routes.slots.len());
    assert_eq!(routes.counters.in_use, routes.slots.iter().filter(|slot| slot.users > 0).count());
    let next = Kernel::default();
    next.take(&routes.table).unwrap();
    assert_eq!(next.messages, kernel.messages, "the next commit changes nothing of it");
}

#[derive(Clone, Debug)]
enum Step {
    Publish { destination: u32, vectors: Vec<u8>, refused: bool },
    Withdraw(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let vectors = prop::collection::vec(16u8.., 1..300);
    prop_oneof![
        2 => (15u32..40, vectors, prop::bool::weighted(0.3))
            .prop_map(|(destination, vectors, refused)| Step::Publish { destination, vectors, refused }),
        1 => any::<prop::sample::Index>().prop_map(Step::Withdraw),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_route_in_use_is_in_the_kernels_table_whatever_happens(steps in prop::collection::vec(step(), 1..40)) {
        let (mut routes, kernel) = full();
        let mut in_use: Vec<Route> = Vec::new();
        for step in steps {
            match step {
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
                        routes.withdraw(in_use.swap_remove(index.index(in_use.len())));
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
