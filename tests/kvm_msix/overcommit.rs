//! Three functions of 2048 vectors, all live at once. The routing table has no room for them if each vector has its own message. It has
//! room if they share messages.

use std::sync::Arc;
use std::time::Instant;

use vm_msi::MsiMessage;
use vm_msi::domain::{DomainReport, State, VectorReport};
use vm_msi::kvm::Irqchip;

use crate::bare_metal::{
    Card, ENABLE, EventThread, FUNCTION_MASK, Guest, IRQCHIPS, Machine, fixed, turn_of_thousands,
};
use crate::shortage::ROUTES;

const CARDS: u32 = 3;
const VECTORS: u32 = 2048;
const ALL: u32 = CARDS * VECTORS;
/// Interrupts of one CPU, and as many CPUs as give every vector its own interrupt.
const HANDLERS: u32 = 205;
const CPUS: u8 = ALL.div_ceil(HANDLERS) as u8;

/// The CPU and interrupt of a vector, counted through all cards. No two vectors share them.
fn place(index: u32) -> (u8, u8) {
    ((index / HANDLERS) as u8, 0x20 + (index % HANDLERS) as u8)
}

/// A guest that uses every vector of three cards, and the threads that deliver the relayed vectors.
fn guest_with_three_cards(
    cpus: u8,
    message: impl Fn(u32) -> MsiMessage,
) -> (Guest, Vec<Arc<Card>>, Vec<EventThread>) {
    let mut machine = Machine::new(Irqchip::Kernel, cpus);
    let cards: Vec<_> = (0..CARDS).map(|_| machine.plug(VECTORS as u16)).collect();
    let threads = cards.iter().map(|card| EventThread::start([card.msix.clone()])).collect();
    let guest = machine.start();
    for (card, first) in cards.iter().zip((0..).step_by(VECTORS as usize)) {
        let requests: Vec<_> = (0..VECTORS).flat_map(|v| card.request(v, message(first + v))).collect();
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &requests);
    }
    (guest, cards, threads)
}

fn reports(cards: &[Arc<Card>]) -> Vec<DomainReport> {
    cards.iter().map(|card| card.msix.report()).collect()
}

/// For each card, the number of vectors that the kernel delivers, and of those that userspace delivers.
fn live_and_relayed(cards: &[Arc<Card>]) -> Vec<(u32, u32)> {
    reports(cards).iter().map(|report| (report.live, report.relayed)).collect()
}

#[test]
fn vectors_with_more_messages_than_routes_all_deliver_and_the_busiest_are_promoted_when_a_card_goes() {
    let _turn = turn_of_thousands();
    let (guest, cards, _threads) = guest_with_three_cards(CPUS, |index| {
        let (cpu, handler) = place(index);
        fixed(cpu, handler)
    });
    assert_eq!(live_and_relayed(&cards), [(VECTORS, 0), (ROUTES - VECTORS, 40), (0, VECTORS)]);

    let raise = |card: u32, vector: u32| cards[card as usize].device.raise(vector);
    let wait = |card: u32, vector: u32, count: u64| {
        let (cpu, handler) = place(card * VECTORS + vector);
        guest.wait_for(cpu, handler, count);
    };
    let each = |cards: std::ops::Range<u32>| cards.flat_map(|card| (0..VECTORS).map(move |v| (card, v)));
    each(0..CARDS).for_each(|(card, vector)| raise(card, vector));
    each(0..CARDS).for_each(|(card, vector)| wait(card, vector, 1));

    // The report says which way each of them goes.
    let is_of_the_kernel = |vector: &VectorReport| vector.gsi.is_some() && vector.delivered.is_none();
    let is_of_userspace = |vector: &VectorReport| vector.gsi.is_none() && vector.delivered == Some(1);
    for vector in reports(&cards).iter().flat_map(|report| &report.vectors) {
        match vector.state {
            State::Live => assert!(is_of_the_kernel(vector), "{vector:?}"),
            State::Relayed => assert!(is_of_userspace(vector) && vector.error.is_some(), "{vector:?}"),
            _ => panic!("{vector:?} waits"),
        }
    }

    // All but 40 of the last card's vectors are busier than those: one in 51.
    let is_idle = |vector: u32| vector.is_multiple_of(51) && vector < 40 * 51;
    let busy = || (0..VECTORS).filter(|vector| !is_idle(*vector));
    busy().for_each(|vector| raise(2, vector));
    busy().for_each(|vector| wait(2, vector, 2));

    guest.perform(0, &[cards[0].control(0)]);
    for card in &cards {
        card.msix.retry();
    }
    assert_eq!(live_and_relayed(&cards), [(0, 0), (VECTORS, 0), (VECTORS - 40, 40)]);
    let last = cards[2].msix.report();
    let relayed = last.vectors.iter().filter(|vector| vector.state == State::Relayed);
    assert!(relayed.map(|vector| vector.vector.0).eq((0..VECTORS).filter(|vector| is_idle(*vector))));

    each(1..CARDS).for_each(|(card, vector)| raise(card, vector));
    (0..VECTORS).for_each(|vector| wait(1, vector, 2));
    (0..VECTORS).for_each(|vector| wait(2, vector, if is_idle(vector) { 2 } else { 3 }));
}

#[test]
fn as_many_vectors_with_few_messages_are_all_delivered_by_the_kernel() {
    let _turn = turn_of_thousands();
    let place = |index: u32| ((index % 2) as u8, 0x40 + (index / 2 % 50) as u8);
    let (guest, cards, _threads) = guest_with_three_cards(2, |index| {
        let (cpu, handler) = place(index);
        fixed(cpu, handler)
    });
    assert_eq!(live_and_relayed(&cards), [(VECTORS, 0); CARDS as usize]);
    // One by one: interrupts of one handler that come at once are one.
    let mut counts = [[0; 50]; 2];
    for index in 0..ALL {
        let (cpu, handler) = place(index);
        let count = &mut counts[usize::from(cpu)][usize::from(handler - 0x40)];
        *count += 1;
        cards[(index / VECTORS) as usize].device.raise(index % VECTORS);
        guest.wait_for(cpu, handler, *count);
    }
}

#[test]
fn function_mask_over_2048_live_vectors_costs_a_detach_each_then_an_attach_each_and_no_commit() {
    let _turn = turn_of_thousands();
    for irqchip in IRQCHIPS {
        let mut machine = Machine::new(irqchip, 1);
        let card = machine.plug(VECTORS as u16);
        let router = machine.router();
        let guest = machine.start();
        let messages = (0..VECTORS).map(place).map(|(cpu, handler)| fixed(cpu, handler));
        let requests: Vec<_> =
            (0..).zip(messages).flat_map(|(v, message)| card.request(v, message)).collect();
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &requests);

        let before = (card.msix.report().counters, router.counters().commits);
        let timed = |control| {
            let start = Instant::now();
            guest.perform(0, &[card.control(control)]);
            start.elapsed()
        };
        let masked = timed(ENABLE | FUNCTION_MASK);
        let between = card.msix.report();
        assert_eq!((between.live, between.host_vectors), (0, VECTORS));
        let unmasked = timed(ENABLE);
        println!(
            "function mask over {VECTORS} live vectors, {irqchip:?}: set {masked:?}, cleared {unmasked:?}"
        );

        let after = card.msix.report();
        assert_eq!((after.live, router.counters().commits), (VECTORS, before.1));
        let expected = {
            let mut counters = before.0;
            counters.detaches += u64::from(VECTORS);
            counters.attaches += u64::from(VECTORS);
            counters
        };
        assert_eq!((between.counters.attaches, after.counters.clone()), (expected.attaches - 2048, expected));
        card.device.raise(7);
        guest.wait_for(0, 0x27, 1);
    }
}
