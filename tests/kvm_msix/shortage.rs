//! A host that runs out of a resource. Interrupts stay pending or are relayed by userspace, and none is lost.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vm_msi::domain::State;
use vm_msi::kvm::Irqchip;

use crate::bare_metal::{Card, ENABLE, EventThread, Guest, Machine, fixed, turn_of_thousands};

/// Messages that the routing table has room for, beside the irqchip's pins.
pub(crate) const ROUTES: u32 = 4056;
/// The messages of two cards of 2048 vectors for which it has no room.
const EXCESS: u32 = 2 * 2048 - ROUTES;

/// A guest of two cards of 2048 vectors, each with its own message. The table has no room for the last vectors, which are interrupts of
/// CPU 0. All others are for CPUs that do not exist.
fn guest_with_too_many_messages(prepare: impl Fn(&Arc<Card>)) -> (Guest, [Arc<Card>; 2]) {
    let mut machine = Machine::new(Irqchip::Kernel, 1);
    let cards = [machine.plug(2048), machine.plug(2048)];
    cards.iter().for_each(prepare);
    let router = machine.router();
    // Messages that nobody uses give their room first.
    router.publish_destinations(100..120).unwrap();
    assert_eq!(router.counters().published, ROUTES as usize);

    let guest = machine.start();

    let message = |index: u32| match index.checked_sub(ROUTES) {
        Some(excess) => fixed(0, 0x20 + excess as u8),
        None => fixed(1 + (index / 208) as u8, 0x20 + (index % 208) as u8),
    };
    for (card, first) in cards.iter().zip([0, 2048]) {
        let requests: Vec<_> =
            (0..2048).flat_map(|vector| card.request(vector, message(first + vector))).collect();
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &requests);
    }
    let counters = router.counters();
    assert_eq!((counters.in_use, counters.evictions), (ROUTES as usize, ROUTES.into()));
    (guest, cards)
}

/// The vectors of the second card for which the table has no room.
fn excess() -> std::ops::Range<u32> {
    2048 - EXCESS..2048
}

fn wait_for_excess(guest: &Guest, count: u64) {
    for vector in 0..EXCESS {
        guest.wait_for(0, 0x20 + vector as u8, count);
    }
}

#[test]
fn vectors_beyond_the_routing_table_wait_and_come_alive_when_others_are_released() {
    let _turn = turn_of_thousands();
    let (guest, cards) = guest_with_too_many_messages(|_| {});
    assert_eq!((cards[0].msix.failed_steps(), cards[1].msix.failed_steps()), (0, EXCESS as usize));
    let report = cards[1].msix.report();
    let refused: Vec<_> = report.vectors.iter().filter(|vector| vector.error.is_some()).collect();
    assert!(refused.iter().map(|vector| vector.vector.0).eq(excess()));
    assert!(refused[0].error.as_ref().unwrap().contains("no room"), "{:?}", refused[0]);

    // They wait, also when asked again in vain.
    excess().for_each(|vector| cards[1].device.raise(vector));
    cards[1].msix.retry();
    guest.settle(0);
    assert_eq!((cards[1].msix.failed_steps(), guest.all_interrupts(0)), (EXCESS as usize, 0));
    assert!(excess().all(|vector| cards[1].is_pending(&guest, 0, vector)));

    let released: Vec<_> = (1..EXCESS).flat_map(|vector| cards[0].release(vector)).collect();
    guest.perform(0, &released);
    cards[1].msix.retry();
    assert_eq!(cards[1].msix.failed_steps(), 1);
    guest.perform(0, &cards[0].release(0));
    cards[1].msix.retry();
    assert_eq!(cards[1].msix.failed_steps(), 0);
    wait_for_excess(&guest, 1);

    assert_eq!(guest.all_interrupts(0), u64::from(EXCESS));
}

#[test]
fn vectors_beyond_the_routing_table_are_delivered_from_userspace_until_there_is_room() {
    let _turn = turn_of_thousands();
    let threads = RefCell::new(Vec::new());
    let (guest, cards) = guest_with_too_many_messages(|card| {
        threads.borrow_mut().push(EventThread::start([card.msix.clone()]))
    });
    let card = &cards[1];
    assert_eq!(card.msix.report().relayed, EXCESS);
    for round in 1..=3 {
        excess().for_each(|vector| card.device.raise(vector));
        wait_for_excess(&guest, round);
    }
    assert_eq!(card.msix.report().counters.relayed, 3 * u64::from(EXCESS));

    // A masked one waits there as anywhere.
    let masked = 2040;
    guest.perform(0, &[card.mask(masked)]);
    card.device.raise(masked);
    assert!(card.is_pending(&guest, 0, masked));
    guest.settle(0);
    assert_eq!(guest.all_interrupts(0), 3 * u64::from(EXCESS));
    guest.perform(0, &[card.unmask(masked)]);
    guest.wait_for(0, 0x20 + (masked - excess().start) as u8, 4);

    let released: Vec<_> = (0..EXCESS).flat_map(|vector| cards[0].release(vector)).collect();
    guest.perform(0, &released);
    cards[1].msix.retry();
    let report = card.msix.report();
    assert_eq!((report.relayed, report.live, card.msix.failed_steps()), (0, 2048, 0));
    excess().filter(|vector| *vector != masked).for_each(|vector| card.device.raise(vector));
    wait_for_excess(&guest, 4);
    assert_eq!(card.msix.report().counters.relayed, 3 * u64::from(EXCESS) + 1, "the kernel has the rest");
}

#[test]
fn vectors_without_an_open_file_wait_in_the_device_and_come_alive_when_there_is_one() {
    in_a_process_of_its_own(
        "shortage::vectors_without_an_open_file_wait_in_the_device_and_come_alive_when_there_is_one",
        || {
            let (guest, card) = Machine::with_card(Irqchip::Kernel, 1, 64);
            guest.perform(0, &[card.control(ENABLE)]);
            guest.perform(0, &card.request(0, fixed(0, 0x40)));

            let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
            let limit = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
            // A vector has two files in this process: the domain's and the device's.
            let live = 1 + files_to_open_below(64) / 2;
            limit(Some(64));
            let requests: Vec<_> =
                (1..64).flat_map(|vector| card.request(vector, fixed(0, 0x40 + vector as u8))).collect();
            guest.perform(0, &requests);
            let report = card.msix.report();
            println!("64 open files: {live} of 64 vectors live");
            assert_eq!((report.live as usize, card.msix.failed_steps()), (live, 64 - live));
            assert!((12..32).contains(&live));
            let held = report.vectors.iter().filter(|vector| vector.state != State::Live);
            let reasons: Vec<_> = held.filter_map(|vector| vector.error.as_ref()).collect();
            assert_eq!(reasons.len(), 64 - live);
            assert!(reasons.iter().all(|reason| reason.contains("Too many open files")), "{reasons:?}");

            (0..64).for_each(|vector| card.device.raise(vector));
            let alive: Vec<u8> = report
                .vectors
                .iter()
                .filter(|vector| vector.state == State::Live)
                .map(|vector| vector.vector.0 as u8)
                .collect();
            alive.iter().for_each(|vector| guest.wait_for(0, 0x40 + vector, 1));
            card.msix.retry();
            guest.settle(0);
            assert_eq!((card.msix.failed_steps(), guest.all_interrupts(0)), (64 - live, live as u64));
            let waiting = guest.read(0, card.pba(), 8);
            assert_eq!(waiting, alive.iter().fold(u64::MAX, |bits, vector| bits & !(1 << vector)));

            limit(maximum);
            card.msix.retry();
            assert_eq!(card.msix.failed_steps(), 0);
            (0..64).for_each(|vector| guest.wait_for(0, 0x40 + vector, 1));
            assert_eq!(guest.read(0, card.pba(), 8), 0);
        },
    );
}

/// The number of files that this process can still open under a limit.
fn files_to_open_below(limit: u64) -> usize {
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
    let open: BTreeSet<u64> = numbers.map(|name| name.to_str().unwrap().parse().unwrap()).collect();
    // The directory itself is closed again.
    (0..limit).filter(|number| !open.contains(number)).count() + 1
}

/// Runs the body of the test of that name in its own process, so that its limits apply to no other test.
fn in_a_process_of_its_own(test: &str, body: impl FnOnce()) {
    const CHILD: &str = "VM_MSI_TEST_PROCESS";
    if env::var_os(CHILD).is_some() {
        return body();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
