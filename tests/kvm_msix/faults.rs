//! The kernel refuses each call on the way of an interrupt once, with each error that it may give. No interrupt is lost, and in the end
//! nothing is left of the failure.
//!
//! The calls are refused by a seccomp listener, below the code that is tested: the kernel's own calls fail, no double does.

use faults::{Answer, Attempt, Call, under};
use rustix::io::Errno;
use vm_msi::kvm::Irqchip;

use crate::bare_metal::{Card, ENABLE, FUNCTION_MASK, Guest, IRQCHIPS, Machine, eventually, fixed};

const CALLS: [Call; 4] = [Call::Eventfd, Call::KvmSetGsiRouting, Call::KvmIrqfdAttach, Call::KvmIrqfdDetach];
const ERRORS: [Errno; 6] = [Errno::NOMEM, Errno::MFILE, Errno::NOSPC, Errno::INVAL, Errno::BUSY, Errno::INTR];
/// The interrupt of vector 0; others follow.
const FIRST: u8 = 0x40;
/// Where vector 2 moves to.
const MOVED: u8 = 0x60;

/// A guest, its card, and how often each interrupt must have come.
struct Driver {
    guest: Guest,
    card: std::sync::Arc<Card>,
    expected: std::collections::BTreeMap<u8, u64>,
}

impl Driver {
    /// Raises a vector.
    fn ring(&mut self, vector: u32, interrupt: u8) {
        self.card.device.raise(vector);
        *self.expected.entry(interrupt).or_default() += 1;
    }

    /// All that was raised has come, once, after as many retries as it takes.
    fn settle(&self) {
        let came = || {
            self.card.msix.retry();
            self.expected.iter().all(|(interrupt, count)| self.guest.interrupts(0, *interrupt) >= *count)
        };
        eventually(came, || format!("{:?} of {:?}", self.card.msix.report(), self.expected));
        self.guest.settle(0);
        let all: u64 = self.expected.values().sum();
        assert_eq!(self.guest.all_interrupts(0), all, "an interrupt came twice");
    }
}

/// All that a driver does with vectors, each with an interrupt that is on its way.
fn drive(irqchip: Irqchip) {
    let (guest, card) = Machine::with_card(irqchip, 1, 8);
    let mut driver = Driver { guest, card, expected: [].into() };
    let perform = |driver: &Driver, operations: &[_]| drop(driver.guest.perform(0, operations));
    let card = driver.card.clone();
    let message = |vector: u32| fixed(0, FIRST + vector as u8);

    perform(&driver, &[card.control(ENABLE)]);
    for vector in 0..4 {
        perform(&driver, &card.request(vector, message(vector)));
        driver.ring(vector, FIRST + vector as u8);
    }
    driver.settle();

    perform(&driver, &[card.mask(1)]);
    driver.ring(1, FIRST + 1);
    perform(&driver, &[card.unmask(1)]);
    driver.settle();

    let moved = card.message(2, fixed(0, MOVED));
    perform(&driver, &[&[card.mask(2)], &moved[..], &[card.unmask(2)]].concat());
    driver.ring(2, MOVED);
    driver.settle();

    perform(&driver, &card.release(3));
    perform(&driver, &card.request(3, message(3)));
    driver.ring(3, FIRST + 3);
    driver.settle();

    perform(&driver, &[card.control(ENABLE | FUNCTION_MASK)]);
    (0..2).for_each(|vector| driver.ring(vector, FIRST + vector as u8));
    perform(&driver, &[card.control(ENABLE)]);
    driver.settle();

    perform(&driver, &[card.control(0)]);
    perform(&driver, &[card.control(ENABLE)]);
    driver.ring(0, FIRST);
    driver.settle();

    perform(&driver, &(0..4).flat_map(|vector| card.release(vector)).collect::<Vec<_>>());
    perform(&driver, &[card.control(0)]);
    eventually(
        || {
            card.msix.retry();
            card.msix.failed_steps() == 0 && card.device.bound() == 0
        },
        || format!("{:?}", card.msix.report()),
    );
}

/// Refuses calls from the `first` on, so many of them, and returns how many there were.
///
/// Only those of the card count: from its first irqfd on, which is after all that builds the machine.
fn drive_while(
    irqchip: Irqchip,
    first: usize,
    count: usize,
    errno: Errno,
    may_refuse: fn(Call) -> bool,
) -> usize {
    let (mut has_begun, mut seen) = (false, 0);
    let answer = |attempt: &Attempt| {
        has_begun |= attempt.call == Call::KvmIrqfdAttach;
        if !has_begun || !may_refuse(attempt.call) {
            return Answer::Make;
        }
        seen += 1;
        if (first..first + count).contains(&(seen - 1)) { Answer::Fail(errno) } else { Answer::Make }
    };
    under(&CALLS, answer, || drive(irqchip)).unwrap();
    seen
}

/// How many calls there are if none is refused.
fn calls(irqchip: Irqchip, may_refuse: fn(Call) -> bool) -> usize {
    let calls = drive_while(irqchip, 0, 0, Errno::NOMEM, may_refuse);
    println!("{irqchip:?}: {calls} calls");
    assert!(calls > 20, "a driver makes more: {calls}");
    calls
}

#[test]
fn each_call_that_is_refused_once_is_made_up_for() {
    for irqchip in IRQCHIPS {
        for first in 0..calls(irqchip, |_| true) {
            drive_while(irqchip, first, 1, ERRORS[first % ERRORS.len()], |_| true);
        }
    }
}

/// While the kernel refuses to detach an eventfd, interrupts go where they went: that cannot be made up for. It has no reason to.
#[test]
fn each_run_of_calls_that_is_refused_is_made_up_for() {
    let is_no_detach = |call| call != Call::KvmIrqfdDetach;
    let calls = calls(Irqchip::Kernel, is_no_detach);
    for (first, errno) in (0..calls).zip(ERRORS.into_iter().cycle()) {
        for count in [2, 5] {
            drive_while(Irqchip::Kernel, first, count, errno, is_no_detach);
        }
    }
}
