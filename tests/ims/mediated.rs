//! Slots that get host vectors of a device while a guest uses them, and a mediator that makes the device signal those vectors.

use std::sync::Arc;

use vm_msi::domain::{BusMaster, Latched};
use vm_msi::ims::ControlFormat;
use vm_msi::pool::{HostVector, LogicalFunction, Parent, Pool, VectorMap};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{DeviceBudget, ImsFunction, MsiMessage, Vector};

use crate::fixture::{MASK, layout, message};

/// Eight slots over a device of which the mediator has vector 0, and the device is on.
struct Mediated {
    function: ImsFunction,
    vector_map: VectorMap,
    _management: LogicalFunction,
    device: FakeBackend,
    router: Arc<FakeRouter>,
    budget: Arc<DeviceBudget>,
}

impl Mediated {
    fn new() -> Self {
        let failures = Failures::default();
        let (device, router) =
            (FakeBackend::new(failures.clone()), Arc::new(FakeRouter::new(failures.clone())));
        let table = Arc::new(Pool::new(device.clone()).reserve(0..16).unwrap());
        let mut management = LogicalFunction::new([table.alloc_at(HostVector(0)).unwrap()]);
        vm_msi::Backend::open(&mut management, 1).unwrap();
        let part = Parent::enable(table, HostVector(0)).unwrap().sub_device(8);
        let (vector_map, budget) = (part.vector_map(), DeviceBudget::new(None));
        let function = ImsFunction::try_new(layout(8, ControlFormat::DSA), router.clone(), part).unwrap();
        let function = function.with_budget(budget.clone());
        Self { function, vector_map, _management: management, device, router, budget }
    }

    fn set_up(&self, slot: u32, control: u32) {
        let (at, MsiMessage { address, data }) = (u64::from(slot) * 16, message(slot));
        self.function.write_slots(at, &address.to_le_bytes());
        self.function.write_slots(at + 8, &data.to_le_bytes());
        self.set_control(slot, control);
    }

    fn set_control(&self, slot: u32, control: u32) {
        self.function.write_slots(u64::from(slot) * 16 + 12, &control.to_le_bytes());
    }

    fn free(&self, slot: u32) {
        self.set_control(slot, MASK);
        self.function.write_slots(u64::from(slot) * 16, &[0; 12]);
    }

    /// A mediator handles the guest's ring of a queue.
    fn ring(&self, slot: u32) -> Vec<MsiMessage> {
        match self.function.latch(Vector(slot)) {
            Latched::Waits | Latched::NoSuchVector => {}
            Latched::HasHostVector => {
                let host = self.vector_map.get(Vector(slot)).expect("it has a host vector");
                assert!(self.device.raise(Vector(host.vector.0)));
            }
        }
        self.delivered()
    }

    fn delivered(&self) -> Vec<MsiMessage> {
        self.router.pump();
        self.router.take_delivered()
    }

    fn is_pending(&self, slot: u32) -> bool {
        self.function.pending(0) >> slot & 1 == 1
    }
}

#[test]
fn a_ring_reaches_its_slot_wherever_that_has_its_host_vector() {
    let mediated = Mediated::new();
    for slot in [5, 2, 7] {
        mediated.set_up(slot, 0);
    }
    let host = |slot| mediated.vector_map.get(Vector(slot)).map(|host| host.vector);
    assert_eq!([5, 2, 7].map(host), [1, 2, 3].map(|vector| Some(HostVector(vector))));
    mediated.free(5);
    mediated.set_up(0, 0);
    mediated.set_up(5, 0);
    assert_eq!([0, 5].map(host), [1, 4].map(|vector| Some(HostVector(vector))), "they have changed");
    for slot in [0, 2, 5, 7] {
        assert_eq!(mediated.ring(slot), [message(slot)]);
    }
    assert_eq!(mediated.device.in_use(), (4, true));
}

#[test]
fn a_ring_of_a_slot_that_was_never_unmasked_waits_and_comes_once() {
    let mediated = Mediated::new();
    mediated.set_up(3, MASK);
    assert_eq!([mediated.ring(3), mediated.ring(3)], [vec![], vec![]]);
    assert!(mediated.is_pending(3) && !mediated.is_pending(4));
    assert_eq!(mediated.device.in_use(), (0, true), "a masked slot costs nothing");
    mediated.set_control(3, 0);
    assert_eq!((mediated.delivered(), mediated.is_pending(3)), (vec![message(3)], false));
    assert_eq!(mediated.ring(3), [message(3)]);
}

#[test]
fn a_ring_of_a_slot_that_was_refused_a_host_vector_comes_when_it_has_one() {
    let mediated = Mediated::new();
    mediated.budget.set_limit(Some(1));
    mediated.set_up(0, 0);
    mediated.set_up(1, 0);
    assert_eq!((mediated.ring(0), mediated.ring(1)), (vec![message(0)], vec![]));
    assert_eq!((mediated.function.failed_steps(), mediated.is_pending(1)), (1, true));
    mediated.free(0);
    mediated.function.retry();
    assert_eq!((mediated.function.failed_steps(), mediated.delivered()), (0, vec![message(1)]));
}

#[test]
fn a_ring_while_the_bus_does_not_let_the_function_signal_waits() {
    let mediated = Mediated::new();
    mediated.function.set_bus_master(BusMaster::Disabled);
    mediated.set_up(6, 0);
    assert_eq!(mediated.ring(6), []);
    mediated.function.set_bus_master(BusMaster::Enabled);
    assert_eq!(mediated.delivered(), [message(6)]);
    mediated.function.set_bus_master(BusMaster::Disabled);
    assert_eq!((mediated.ring(6), mediated.is_pending(6)), (vec![], true), "the device has signalled it");
    mediated.function.set_bus_master(BusMaster::Enabled);
    assert_eq!(mediated.delivered(), [message(6)]);
}

#[test]
fn a_reset_forgets_what_waited_and_leaves_the_device_on() {
    let mediated = Mediated::new();
    mediated.set_up(1, 0);
    mediated.set_up(2, MASK);
    assert_eq!(mediated.ring(2), []);
    mediated.function.reset(|| ());
    assert_eq!(mediated.device.in_use(), (0, true));
    assert_eq!([1, 2].map(|slot| mediated.vector_map.get(Vector(slot))), [None, None]);
    mediated.set_up(2, 0);
    assert_eq!(mediated.delivered(), []);
    assert_eq!(mediated.ring(2), [message(2)]);
}
