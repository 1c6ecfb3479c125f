//! Functions that are made, grow and are dropped on threads of their own while the device raises interrupts of all. They share locks
//! only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use vm_msi::pool::{HostVector, LogicalFunction, Parent, Pool};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{Backend, MsiMessage, Vector};

use crate::{Function, layout};

const ROUNDS: u32 = 300;
/// Threads with their own functions. Half of them have fixed vectors, half have vectors on demand.
const OWNERS: u32 = 4;

/// The number of interrupts by message.
#[derive(Default)]
struct Delivered(Mutex<BTreeMap<MsiMessage, u64>>);

impl Delivered {
    fn count(&self, router: &FakeRouter, message: MsiMessage) -> u64 {
        router.pump();
        // Under the lock, or what another thread has taken is not in the counts yet.
        let mut counts = self.0.lock().unwrap();
        for message in router.take_delivered() {
            *counts.entry(message).or_default() += 1;
        }
        counts.get(&message).copied().unwrap_or_default()
    }
}

/// A vector of the `round`-th function of a thread: no other has its message.
fn message(owner: u32, round: u32, vector: u32) -> MsiMessage {
    MsiMessage {
        address: (0xfee0_0000 | (round % 256) << 12).into(),
        data: 0x20 + owner * 0x30 + round / 256 * 8 + vector,
    }
}

/// A guest turns MSI-X on.
fn turn_on(function: &Function) {
    function.write_config(2, &0x8000u16.to_le_bytes());
}

/// A guest requests a vector.
fn request(function: &Function, vector: u32, message: MsiMessage) {
    let entry = [message.address_low(), message.address_high(), message.data, 0].map(u32::to_le_bytes);
    function.write_table(u64::from(vector) * 16, &entry.concat());
}

#[test]
fn functions_that_come_grow_and_go_at_once_get_their_own_interrupts_and_no_others() {
    let device = FakeBackend::new(Failures::default());
    let pool = Pool::new(device.clone());
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let table = Arc::new(pool.reserve(0..8).unwrap());
    let mut management = LogicalFunction::new([table.alloc_at(HostVector(0)).unwrap()]);
    management.open(1).unwrap();
    let parent = Parent::enable(table, HostVector(0)).unwrap();
    let (delivered, running) = (Delivered::default(), AtomicBool::new(true));

    thread::scope(|scope| {
        let signaller = scope.spawn(|| {
            let mut rng = fastrand::Rng::new();
            while running.load(Ordering::Relaxed) {
                // Whoever has it, or nobody.
                device.raise(Vector(rng.u32(1..24)));
                router.pump();
                thread::yield_now();
            }
        });
        let owners = (0..OWNERS).map(|owner| {
            let (device, pool, parent, router, delivered) = (&device, &pool, &parent, &router, &delivered);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let function = if owner % 2 == 0 {
                        LogicalFunction::new((0..3).map(|_| pool.alloc_any(8..24).unwrap()))
                    } else {
                        parent.sub_device(3)
                    };
                    let vector_map = function.vector_map();
                    let function = Function::new(layout(3), router.clone(), function);
                    turn_on(&function);
                    for vector in 0..3 {
                        let message = message(owner, round, vector);
                        assert_eq!(delivered.count(router, message), 0, "from an earlier holder");
                        request(&function, vector, message);
                        let host = vector_map.get(Vector(vector)).expect("it is bound");
                        let before = delivered.count(router, message);
                        device.raise(Vector(host.vector.0));
                        assert!(delivered.count(router, message) > before, "its own interrupt has come");
                    }
                    drop(function);
                    let all: Vec<u64> =
                        (0..3).map(|vector| delivered.count(router, message(owner, round, vector))).collect();
                    thread::yield_now();
                    for (vector, count) in (0..).zip(all) {
                        let message = message(owner, round, vector);
                        assert_eq!(delivered.count(router, message), count, "it is gone");
                    }
                }
            })
        });
        let owners: Vec<_> = owners.collect();
        let ended: Vec<_> = owners.into_iter().map(thread::ScopedJoinHandle::join).collect();
        running.store(false, Ordering::Relaxed);
        signaller.join().unwrap();
        ended.into_iter().for_each(|ended| ended.unwrap());
    });

    assert!(pool.report().counters.strays > 0, "what came for nobody was counted");
    drop((parent, management));
    assert_eq!((device.in_use(), router.in_use()), ((0, false), (0, 0)));
    assert_eq!(pool.failed_steps(), 0);
}
