//! Shares of budgets: promised, taken, refused and returned, in any order and from several threads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The used host vectors of either kind of budget.
macro_rules! used {
    ($budget:expr) => {
        $budget.report().used
    };
}

#[test]
fn a_device_gets_its_promise_and_beyond_that_only_what_others_leave() {
    let vm = VmBudget::new(Some(5));
    let one = vm.admit(2, None).unwrap();
    let other = vm.admit(0, None).unwrap();
    assert_eq!(used!(vm), 2, "promised");
    let greedy: Vec<_> = (0..3).map(|_| other.take().unwrap()).collect();
    assert_eq!(other.take().unwrap_err(), Exhausted { scope: Scope::Vm, used: 5, limit: 5 });
    assert_eq!(used!(other), 3, "a refusal takes nothing");
    let promised = [one.take().unwrap(), one.take().unwrap()];
    assert_eq!(used!(vm), 5);
    assert!(one.take().is_err());
    drop(greedy);
    let beyond = one.take().unwrap();
    assert_eq!((used!(one), used!(vm)), (3, 3));
    drop(promised);
    assert_eq!((used!(one), used!(vm)), (1, 2), "the promise stands");
    drop(beyond);
    drop(one);
    assert_eq!((used!(vm), vm.report().high_water, vm.report().refusals), (0, 5, 2));
}

#[test]
fn a_device_has_its_own_limit() {
    let vm = VmBudget::new(None);
    let device = vm.admit(1, Some(2)).unwrap();
    let _shares = [device.take().unwrap(), device.take().unwrap()];
    assert_eq!(device.take().unwrap_err(), Exhausted { scope: Scope::Device, used: 2, limit: 2 });
    assert_eq!((used!(vm), vm.report().refusals), (2, 0));
    assert!(device.is_short() && !vm.account.lock().is_short());
}

#[test]
fn a_device_whose_promise_cannot_be_kept_is_not_admitted() {
    let vm = VmBudget::new(Some(4));
    let _one = vm.admit(3, None).unwrap();
    let refused = vm.admit(2, None).unwrap_err();
    assert_eq!(refused, AdmissionError::NoRoom { promised: 2, used: 3, limit: 4 });
    let refused = vm.admit(2, Some(1)).unwrap_err();
    assert_eq!(refused, AdmissionError::BeyondLimit { promised: 2, limit: 1 });
    assert_eq!(used!(vm), 3);
    vm.set_limit(Some(1));
    assert!(vm.admit(0, None).is_ok(), "it was promised nothing");
}

#[test]
fn a_refused_admission_releases_no_vector_of_other_devices() {
    let vm = VmBudget::new(Some(1));
    let device = vm.admit(1, None).unwrap();
    assert!(vm.admit(1, None).is_err());
    assert!(!device.is_short());
    assert_eq!(vm.report().refusals, 0, "no vector wanted one");
}

#[test]
fn a_vector_that_no_longer_waits_causes_one_release_and_no_more() {
    let vm = VmBudget::new(Some(2));
    let [one, other] = [0, 1].map(|_| vm.admit(0, None).unwrap());
    let (first, _second) = (one.take().unwrap(), one.take().unwrap());
    assert!(other.take().is_err() && one.is_short());
    // The other device's guest has freed the vector that waited.
    drop(first);
    assert!(!one.is_short(), "there is one");
    let _third = one.take().unwrap();
    assert!(!one.is_short());
}

#[test]
fn a_limit_below_the_used_vectors_takes_nothing_away_and_stops_growth() {
    let vm = VmBudget::new(Some(2));
    let device = vm.admit(0, None).unwrap();
    let shares = [device.take().unwrap(), device.take().unwrap()];
    vm.set_limit(Some(1));
    assert!(device.is_short());
    assert_eq!(used!(vm), 2);
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
    let vm = VmBudget::new(Some(LIMIT));
    let taken = AtomicU32::new(0);
    thread::scope(|scope| {
        for promised in [0, 1, 2] {
            let (vm, taken) = (&vm, &taken);
            scope.spawn(move || {
                for round in 0..2000 {
                    let device = vm.admit(promised, Some(5));
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
                    assert_eq!(used!(device), shares.len() as u32);
                    for share in shares {
                        taken.fetch_sub(1, Ordering::SeqCst);
                        drop(share);
                    }
                }
            });
        }
    });
    assert_eq!(used!(vm), 0);
    assert!(vm.report().high_water <= LIMIT);
}

#[test]
fn a_device_without_a_vm_has_its_own_limit_or_none() {
    let device = DeviceBudget::new(Some(1));
    let _share = device.take().unwrap();
    assert_eq!(device.take().unwrap_err(), Exhausted { scope: Scope::Device, used: 1, limit: 1 });
    let unlimited = DeviceBudget::new(None);
    let shares: Vec<_> = (0..3000).map_while(|_| unlimited.take().ok()).collect();
    assert_eq!((shares.len(), used!(unlimited)), (3000, 3000));
}

#[test]
fn a_function_without_a_budget_is_limited_by_its_table_and_by_2048() {
    for (capacity, limit) in [(1, 1), (2048, 2048), (2049, 2048), (65_536, 2048)] {
        assert_eq!(DeviceBudget::by_default(capacity).report().limit, Some(limit));
    }
}

/// One call to the budgets of a VM.
#[derive(Clone, Debug)]
enum Call {
    Admit { promised: u32, limit: Option<u32> },
    Remove(usize),
    Take(usize),
    Give(usize),
    LimitVm(Option<u32>),
    LimitDevice(usize, Option<u32>),
}

fn call() -> impl Strategy<Value = Call> {
    let limit = || proptest::option::of(0u32..8);
    prop_oneof![
        2 => (0u32..4, limit()).prop_map(|(promised, limit)| Call::Admit { promised, limit }),
        1 => any::<usize>().prop_map(Call::Remove),
        8 => any::<usize>().prop_map(Call::Take),
        5 => any::<usize>().prop_map(Call::Give),
        1 => limit().prop_map(Call::LimitVm),
        1 => (any::<usize>(), limit()).prop_map(|(device, limit)| Call::LimitDevice(device, limit)),
    ]
}

/// A device, and the shares that its vectors have.
type Admitted = (Arc<DeviceBudget>, Vec<Share>);

/// The used host vectors of the VM's budget that these devices account for.
fn used_of_vm(devices: &[Admitted]) -> u32 {
    devices.iter().map(|(device, shares)| device.promised.max(shares.len() as u32)).sum()
}

proptest! {
    #[test]
    fn used_is_the_number_of_host_vectors_and_never_grows_beyond_a_limit(
        calls in vec(call(), 0..200),
    ) {
        let vm = VmBudget::new(Some(6));
        let mut devices: Vec<Admitted> = Vec::new();
        for call in calls {
            let before = used!(vm);
            match call {
                Call::Admit { promised, limit } => {
                    devices.extend(vm.admit(promised, limit).ok().map(|device| (device, Vec::new())));
                }
                Call::Remove(device) if !devices.is_empty() => {
                    let device = device % devices.len();
                    devices.swap_remove(device);
                }
                Call::Take(device) if !devices.is_empty() => {
                    let device = device % devices.len();
                    let (device, shares) = &mut devices[device];
                    let owed = (shares.len() as u32) < device.promised
                        && device.report().limit.is_none_or(|limit| (shares.len() as u32) < limit);
                    let share = device.take();
                    prop_assert!(share.is_ok() || !owed, "a promised share was refused");
                    let grew = share.is_ok();
                    shares.extend(share);
                    let limit = device.report().limit;
                    prop_assert!(!grew || limit.is_none_or(|limit| used!(device) <= limit), "the device's limit");
                }
                Call::Give(device) if !devices.is_empty() => {
                    let device = device % devices.len();
                    devices[device].1.pop();
                }
                Call::LimitVm(limit) => vm.set_limit(limit),
                Call::LimitDevice(device, limit) if !devices.is_empty() => {
                    let device = device % devices.len();
                    devices[device].0.set_limit(limit);
                }
                Call::Remove(_) | Call::Take(_) | Call::Give(_) | Call::LimitDevice(..) => {}
            }
            prop_assert_eq!(used!(vm), used_of_vm(&devices));
            for (device, shares) in &devices {
                prop_assert_eq!(used!(device), shares.len() as u32);
            }
            let vm_limit = vm.report().limit;
            prop_assert!(used!(vm) <= before || vm_limit.is_none_or(|limit| used!(vm) <= limit), "the VM's limit");
        }
        drop(devices);
        prop_assert_eq!(used!(vm), 0);
    }
}
