//! Shares of budgets: what is promised, taken, refused and given back, also from several threads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;

fn used(budget: &Budget) -> u32 {
    budget.report().used
}

#[test]
fn a_device_gets_what_it_was_promised_and_beyond_that_what_others_leave() {
    let vm = Budget::of_vm(Some(5));
    let one = Budget::of_device(&vm, 2, None).unwrap();
    let other = Budget::of_device(&vm, 0, None).unwrap();
    assert_eq!(used(&vm), 2, "promised");
    let greedy: Vec<_> = (0..3).map(|_| other.take().unwrap()).collect();
    assert_eq!(other.take().unwrap_err(), Exhausted { scope: Scope::Vm, used: 5, limit: 5 });
    assert_eq!(used(&other), 3, "a refusal takes nothing");
    let promised = [one.take().unwrap(), one.take().unwrap()];
    assert_eq!(used(&vm), 5);
    assert!(one.take().is_err());
    drop(greedy);
    let beyond = one.take().unwrap();
    assert_eq!((used(&one), used(&vm)), (3, 3));
    drop(promised);
    assert_eq!((used(&one), used(&vm)), (1, 2), "the promise stands");
    drop(beyond);
    drop(one);
    assert_eq!((used(&vm), vm.report().high_water, vm.report().refusals), (0, 5, 2));
}

#[test]
fn a_device_has_its_own_limit() {
    let vm = Budget::of_vm(None);
    let device = Budget::of_device(&vm, 1, Some(2)).unwrap();
    let _shares = [device.take().unwrap(), device.take().unwrap()];
    assert_eq!(device.take().unwrap_err(), Exhausted { scope: Scope::Device, used: 2, limit: 2 });
    assert_eq!((used(&vm), vm.report().refusals), (2, 0));
    assert!(device.is_short() && !vm.is_short());
}

#[test]
fn a_device_that_cannot_be_promised_what_it_needs_is_not_admitted() {
    let vm = Budget::of_vm(Some(4));
    let _one = Budget::of_device(&vm, 3, None).unwrap();
    let refused = Budget::of_device(&vm, 2, None).unwrap_err();
    assert_eq!(refused, AdmissionError::NoRoom { promised: 2, used: 3, limit: 4 });
    let refused = Budget::of_device(&vm, 2, Some(1)).unwrap_err();
    assert_eq!(refused, AdmissionError::BeyondLimit { promised: 2, limit: 1 });
    assert_eq!(used(&vm), 3);
    vm.set_limit(Some(1));
    assert!(Budget::of_device(&vm, 0, None).is_ok(), "it was promised nothing");
}

#[test]
fn a_device_that_was_not_admitted_does_not_make_others_give_back() {
    let vm = Budget::of_vm(Some(1));
    let device = Budget::of_device(&vm, 1, None).unwrap();
    assert!(Budget::of_device(&vm, 1, None).is_err());
    assert!(!device.is_short());
    assert_eq!(vm.report().refusals, 0, "no vector wanted one");
}

#[test]
fn whoever_waited_and_went_makes_others_give_back_once_and_no_more() {
    let vm = Budget::of_vm(Some(2));
    let [one, other] = [0, 1].map(|_| Budget::of_device(&vm, 0, None).unwrap());
    let (first, _second) = (one.take().unwrap(), one.take().unwrap());
    assert!(other.take().is_err() && one.is_short());
    // The other's guest has freed the vector that it wanted one for.
    drop(first);
    assert!(!one.is_short(), "there is one");
    let _third = one.take().unwrap();
    assert!(!one.is_short());
}

#[test]
fn a_limit_below_what_is_used_takes_nothing_and_lets_nothing_grow() {
    let vm = Budget::of_vm(Some(2));
    let device = Budget::of_device(&vm, 0, None).unwrap();
    let shares = [device.take().unwrap(), device.take().unwrap()];
    vm.set_limit(Some(1));
    assert!(device.is_short());
    assert_eq!(used(&vm), 2);
    let [first, second] = shares;
    drop(first);
    assert!(device.take().is_err() && device.is_short());
    drop(second);
    let _third = device.take().unwrap();
    assert!(!device.is_short(), "whoever wanted one has it");
}

#[test]
fn a_vms_budget_is_exact_while_devices_of_several_threads_come_and_go() {
    const LIMIT: u32 = 7;
    let vm = Budget::of_vm(Some(LIMIT));
    let taken = AtomicU32::new(0);
    thread::scope(|scope| {
        for promised in [0, 1, 2] {
            let (vm, taken) = (&vm, &taken);
            scope.spawn(move || {
                for round in 0..2000 {
                    let device = Budget::of_device(vm, promised, Some(5));
                    // The promises of three devices and their shares never exceed the VM's limit.
                    let Ok(device) = device else { continue };
                    let mut shares = Vec::new();
                    for _ in 0..=round % 6 {
                        if let Ok(share) = device.take() {
                            assert!(taken.fetch_add(1, Ordering::SeqCst) < LIMIT, "more than there may be");
                            shares.push(share);
                        }
                    }
                    assert!(shares.len() >= (promised as usize).min(round as usize % 6 + 1), "promised");
                    assert_eq!(used(&device), shares.len() as u32);
                    for share in shares {
                        taken.fetch_sub(1, Ordering::SeqCst);
                        drop(share);
                    }
                }
            });
        }
    });
    assert_eq!(used(&vm), 0);
    assert!(vm.report().high_water <= LIMIT);
}
