//! Budgets: a guest that requests more host vectors than its VM may have waits for them, and loses no interrupt.

use std::time::Duration;

use vm_msi::budget::{BudgetReport, VmBudget};
use vm_msi::domain::Cause;
use vm_msi::kvm::Irqchip;

use crate::bare_metal::{Card, ENABLE, Guest, Machine, Operation, fixed};

/// The handler of a vector of the second card.
fn handler(vector: u32) -> u8 {
    0x40 + vector as u8
}

/// The accesses by which a driver requests the 8 vectors of a card.
fn requests(card: &Card, first_handler: u8) -> Vec<Operation> {
    (0..8).flat_map(|vector| card.request(vector, fixed(0, first_handler + vector as u8))).collect()
}

/// A VM that may have 10 host vectors, and two cards of 8. All vectors of the first card are in use, and as many of the second as the
/// budget allows.
fn guest_with_a_budget_of_10() -> (Guest, [std::sync::Arc<Card>; 2], std::sync::Arc<VmBudget>) {
    let mut machine = Machine::new(Irqchip::Kernel, 1);
    let budget = machine.budget();
    budget.set_limit(Some(10));
    let cards = [machine.plug(8), machine.plug(8)];
    let guest = machine.start();
    for (card, first_handler) in cards.iter().zip([0x30, handler(0)]) {
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &requests(card, first_handler));
    }
    assert_eq!((cards[0].device.bound(), cards[1].device.bound()), (8, 2));
    (guest, cards, budget)
}

#[test]
fn vectors_beyond_the_vms_budget_wait_and_come_alive_when_others_are_released() {
    let (guest, [first, second], budget) = guest_with_a_budget_of_10();
    let report = second.msix.report();
    let held: Vec<_> = report.vectors.iter().filter(|vector| vector.cause == Some(Cause::Budget)).collect();
    assert!(held.iter().map(|vector| vector.vector.0).eq(2..8));
    let error = held[0].error.as_deref().unwrap();
    assert_eq!(error, "vector 2 waits: the VM's budget is used up: 10 host vectors of 10");
    assert_eq!((report.budget.used, report.counters.host_failures, second.msix.failed_steps()), (2, 0, 6));

    (0..8).for_each(|vector| second.device.raise(vector));
    second.msix.retry();
    guest.settle(0);
    assert_eq!(guest.all_interrupts(0), 2, "the others wait");
    assert!((2..8).all(|vector| second.is_pending(&guest, 0, vector)));

    guest.perform(0, &(0..5).flat_map(|vector| first.release(vector)).collect::<Vec<_>>());
    second.msix.retry();
    assert_eq!((second.msix.failed_steps(), budget.report().used), (1, 10));
    budget.set_limit(None);
    second.msix.retry();
    assert_eq!((second.msix.failed_steps(), budget.report().used), (0, 11));
    (0..8).for_each(|vector| guest.wait_for(0, handler(vector), 1));
    guest.settle(0);
    assert_eq!(guest.all_interrupts(0), 8, "each once");
    let BudgetReport { used, high_water, refusals, .. } = budget.report();
    assert_eq!((used, high_water, refusals), (11, 11, 6 + 6 + 1));
}

#[test]
fn what_lingers_at_one_device_is_given_back_when_another_wants_it() {
    let (guest, [first, second], budget) = guest_with_a_budget_of_10();
    first.msix.set_release_delay(Duration::from_secs(3600));
    guest.perform(0, &(0..6).flat_map(|vector| first.release(vector)).collect::<Vec<_>>());
    second.msix.retry();
    assert_eq!((first.msix.expiring(), second.msix.failed_steps()), (6, 6), "they linger");
    first.msix.retry();
    assert_eq!((first.msix.expiring(), budget.report().used), (0, 4));
    second.msix.retry();
    assert_eq!((second.msix.failed_steps(), budget.report().used), (0, 10));
    guest.perform(0, &first.release(6));
    first.msix.retry();
    assert_eq!(first.msix.expiring(), 1, "nobody wants it now");
}

#[test]
fn a_budget_that_shrinks_takes_nothing_from_the_guest() {
    let (guest, [first, second], budget) = guest_with_a_budget_of_10();
    budget.set_limit(Some(1));
    first.msix.retry();
    second.msix.retry();
    assert_eq!((first.device.bound(), second.device.bound()), (8, 2));
    (0..8).for_each(|vector| first.device.raise(vector));
    (0x30..0x38).for_each(|handler| guest.wait_for(0, handler, 1));
    // Masking and unmasking is no growth.
    guest.perform(0, &[first.mask(3)]);
    first.device.raise(3);
    guest.perform(0, &[first.unmask(3)]);
    guest.wait_for(0, 0x33, 2);
    // What is released is gone.
    guest.perform(0, &first.release(3));
    guest.perform(0, &first.request(3, fixed(0, 0x33)));
    assert_eq!((first.device.bound(), first.msix.failed_steps(), budget.report().used), (7, 1, 9));
}
