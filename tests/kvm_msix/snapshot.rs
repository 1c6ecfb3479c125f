//! Snapshots. An interrupt that the device raised before a snapshot is delivered exactly once in the VM that continues, and exactly once
//! in the restored VM. Restoring a whole VM costs one commit of the routing table.
//!
//! The CPUs of these tests keep running while functions are suspended, and take the interrupts of their local APICs. A real snapshot would
//! save those interrupts in the state of the local APICs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use vm_msi::kvm::Irqchip;
use vm_msi::state::{Resume, resume_all};

use crate::bare_metal::{Card, ENABLE, Guest, IRQCHIPS, Machine, eventually, fixed};

const VECTORS: u32 = 64;
const CPUS: u8 = 2;

/// The CPU and the interrupt that a vector of the table is for.
fn target(vector: u32) -> (u8, u8) {
    (vector as u8 % CPUS, 0x30 + vector as u8)
}

/// The number of interrupts that the guest has taken for a vector.
fn count(guest: &Guest, vector: u32) -> u64 {
    let (cpu, interrupt) = target(vector);
    guest.interrupts(cpu, interrupt)
}

/// Three threads of the device raise interrupts, and `work` runs while they do. The device notes each interrupt in the guest's memory
/// before it raises it.
fn under_fire(guest: &Guest, card: &Card, notes: &[Mutex<u64>], signals: u32, work: impl FnOnce()) {
    let left = AtomicU32::new(signals);
    let one_less = |left: u32| left.checked_sub(1);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                    let vector = fastrand::u32(0..VECTORS);
                    let mut note = notes[vector as usize].lock().unwrap();
                    *note += 1;
                    guest.note(target(vector).1, *note);
                    card.device.raise(vector);
                }
            });
        }
        let middle = fastrand::u32(0..signals);
        while left.load(Ordering::Relaxed) > middle {
            std::hint::spin_loop();
        }
        work();
    });
}

#[test]
fn what_is_owed_in_the_middle_of_a_storm_comes_once_in_the_vm_that_goes_on_and_in_the_restored_one() {
    for irqchip in IRQCHIPS {
        let (guest, card) = Machine::with_card(irqchip, CPUS, VECTORS as u16);
        let request = |vector| {
            let (cpu, interrupt) = target(vector);
            card.request(vector, fixed(cpu, interrupt))
        };
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &(0..VECTORS).flat_map(request).collect::<Vec<_>>());
        let notes: Vec<Mutex<u64>> = (0..VECTORS).map(|_| Mutex::default()).collect();
        let mut carried = 0;
        for round in 0..10 {
            // Every third is masked, others in each round.
            let masked = |vector: u32| (vector + round).is_multiple_of(3);
            let mask: Vec<_> = (0..VECTORS).filter(|v| masked(*v)).map(|v| card.mask(v)).collect();
            guest.perform(0, &mask);

            let mut counts = Vec::new();
            let counted = || (0..VECTORS).map(|vector| count(&guest, vector)).collect::<Vec<_>>();
            under_fire(&guest, &card, &notes, fastrand::u32(1..300), || {
                card.msix.suspend().unwrap();
                (0..CPUS).for_each(|cpu| guest.settle(cpu));
                counts = counted();
            });
            (0..CPUS).for_each(|cpu| guest.settle(cpu));
            assert_eq!(counts, counted(), "nothing is delivered while suspended");
            let state = card.msix.suspend().unwrap();
            let pending: Vec<u32> = state.pending.vectors().map(|vector| vector.0).collect();
            for vector in (0..VECTORS).filter(|vector| !pending.contains(vector)) {
                let note = *notes[vector as usize].lock().unwrap();
                assert_eq!(guest.seen(target(vector).1), note, "vector {vector} has seen all, nothing waits");
            }
            carried += pending.len();

            // Another VM.
            let (restored, its_card) = Machine::with_card(irqchip, CPUS, VECTORS as u16);
            its_card.msix.restore(&state).unwrap();
            (0..CPUS).for_each(|cpu| restored.settle(cpu));
            assert_eq!(
                restored.all_interrupts(0) + restored.all_interrupts(1),
                0,
                "not before it is resumed"
            );
            its_card.msix.resume();
            let live: Vec<u32> = pending.iter().copied().filter(|vector| !masked(*vector)).collect();
            for vector in &live {
                let (cpu, interrupt) = target(*vector);
                restored.wait_for(cpu, interrupt, 1);
            }
            let all = || restored.all_interrupts(0) + restored.all_interrupts(1);
            (0..CPUS).for_each(|cpu| restored.settle(cpu));
            assert_eq!(all(), live.len() as u64, "each once, and none of a masked vector");
            let unmask: Vec<_> = (0..VECTORS).map(|vector| its_card.unmask(vector)).collect();
            restored.perform(1, &unmask);
            for vector in &pending {
                let (cpu, interrupt) = target(*vector);
                restored.wait_for(cpu, interrupt, 1);
            }
            (0..CPUS).for_each(|cpu| restored.settle(cpu));
            assert_eq!(all(), pending.len() as u64, "each once");
            its_card.device.raise(0);
            restored.wait_for(target(0).0, target(0).1, 1 + u64::from(pending.contains(&0)));

            // The VM goes on.
            card.msix.resume();
            guest.perform(1, &(0..VECTORS).map(|vector| card.unmask(vector)).collect::<Vec<_>>());
            for vector in 0..VECTORS {
                let note = *notes[vector as usize].lock().unwrap();
                let seen = || guest.seen(target(vector).1);
                eventually(|| seen() == note, || format!("interrupt {note} of vector {vector}: {}", seen()));
            }
        }
        println!("{irqchip:?}: {carried} interrupts waited in 10 snapshots");
        assert!((1..10 * VECTORS as usize).contains(&carried), "all or nothing waited: not much of a test");
    }
}

#[test]
fn a_vm_of_16_functions_with_64_vectors_each_is_restored_with_one_commit() {
    const CARDS: u32 = 16;
    const APICS: u8 = 6;
    let message = |card: u32, vector: u32| {
        let index = card * VECTORS + vector;
        fixed((index / 180) as u8, 0x20 + (index % 180) as u8)
    };
    let machine = || {
        let mut machine = Machine::new(Irqchip::Kernel, APICS);
        let cards: Vec<_> = (0..CARDS).map(|_| machine.plug(VECTORS as u16)).collect();
        (machine.router(), cards, machine.start())
    };

    let (router, cards, guest) = machine();
    for (index, card) in (0..).zip(&cards) {
        guest.perform(0, &[card.control(ENABLE)]);
        let requests: Vec<_> = (0..VECTORS).flat_map(|v| card.request(v, message(index, v))).collect();
        guest.perform(0, &requests);
    }
    assert_eq!(
        router.counters().commits,
        5,
        "one by one: 64, one more, and then three times as many each time"
    );
    let start = Instant::now();
    let states: Vec<_> = cards.iter().map(|card| card.msix.suspend().unwrap()).collect();
    println!("suspended in {:?}", start.elapsed());
    let owed = (0..).zip(&cards).map(|(index, card)| (index, index * 3, card)).collect::<Vec<_>>();
    owed.iter().for_each(|(_, vector, card)| card.device.raise(*vector));
    let states_with_pending: Vec<_> = cards.iter().map(|card| card.msix.suspend().unwrap()).collect();
    assert!(states.iter().all(|state| state.pending.vectors().count() == 0));

    let (router, restored, guest) = machine();
    let start = Instant::now();
    for (card, state) in restored.iter().zip(&states_with_pending) {
        card.msix.restore(state).unwrap();
    }
    assert_eq!(router.counters().commits, 0);
    resume_all(&*router, restored.iter().map(|card| &*card.msix as &dyn Resume));
    println!("restored and resumed in {:?}", start.elapsed());
    assert_eq!(router.counters().commits, 1);
    assert!(restored.iter().all(|card| card.msix.report().live == VECTORS));
    for (index, vector, _) in &owed {
        let message = message(*index, *vector);
        guest.wait_for((message.address >> 12) as u8, message.data as u8, 1);
    }
    let all = || (0..APICS).map(|cpu| guest.all_interrupts(cpu)).sum::<u64>();
    (0..APICS).for_each(|cpu| guest.settle(cpu));
    assert_eq!(all(), u64::from(CARDS), "each once");
}
