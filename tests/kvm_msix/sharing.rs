//! Several functions and a sub-device of one device. Each delivers its own interrupts, whatever happens to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::pool::{HostVector, LogicalFunction, Parent, Pool, VectorMap};
use vm_msi::{MsixFunction, Vector};

use crate::bare_metal::{
    Card, Device, DeviceBackend, ENABLE, Guest, IRQCHIPS, Machine, eventually, fixed, table_layout,
};

/// A device of 16 vectors. Vectors 0 to 7 belong to its physical function, which may give them to others.
fn device() -> (Arc<Device>, Pool, Arc<vm_msi::pool::Window>) {
    let device = Device::new(16);
    let pool = Pool::new(DeviceBackend(device.clone()));
    let table = Arc::new(pool.reserve(0..8).unwrap());
    (device, pool, table)
}

/// The host vector of a function's vector.
fn host(vector_map: &VectorMap, vector: u32) -> u32 {
    vector_map.get(Vector(vector)).expect("it has one").vector.0
}

/// A guest with three cards of one device: the physical function, another function, and a sub-device. Each has MSI-X enabled. Vector 0 of
/// the n-th card is interrupt 0x40 + n of CPU 1.
struct Shared {
    guest: Guest,
    cards: [Arc<Card>; 3],
    /// The cards' vector 0 in the device.
    hosts: [u32; 3],
    device: Arc<Device>,
    pool: Pool,
    parent: Parent,
    router: Arc<KvmRouter>,
}

fn shared(irqchip: Irqchip) -> Shared {
    let (device, pool, table) = device();
    let mut machine = Machine::new(irqchip, 2);
    let router = machine.router();
    let physical = LogicalFunction::new([table.alloc_at(HostVector(0)).unwrap(), table.alloc_any().unwrap()]);
    let other =
        LogicalFunction::new([pool.alloc_any(8..16).unwrap(), pool.alloc_at(HostVector(15)).unwrap()]);
    // The parent is enabled when the physical function's MSI-X is on: here by a function that stays on meanwhile.
    let mut first = LogicalFunction::new([pool.alloc_at(HostVector(14)).unwrap()]);
    vm_msi::Backend::open(&mut first, 1).unwrap();
    let parent = Parent::enable(table, HostVector(0)).unwrap();
    let sub_device = parent.sub_device(4);
    let vector_map = [physical.vector_map(), other.vector_map(), sub_device.vector_map()];
    let cards = [
        machine.plug_part(2, &device, physical),
        machine.plug_part(2, &device, other),
        machine.plug_part(4, &device, sub_device),
    ];
    let guest = machine.start();
    for (card, handler) in cards.iter().zip(0x40..) {
        guest.perform(0, &[card.control(ENABLE)]);
        guest.perform(0, &card.request(0, fixed(1, handler)));
    }
    drop(first);
    let hosts = vector_map.each_ref().map(|vector_map| host(vector_map, 0));
    Shared { guest, cards, hosts, device, pool, parent, router }
}

#[test]
fn two_functions_and_a_sub_device_of_one_device_each_fire_their_own_handler() {
    for irqchip in IRQCHIPS {
        let Shared { guest, cards, hosts, device, parent, .. } = shared(irqchip);
        assert_eq!(hosts, [0, 8, 2], "its management vector, one of the pool, the next of its parent's");
        for (handler, host) in (0x40..).zip(hosts) {
            device.raise(host);
            guest.wait_for(1, handler, 1);
        }
        // One that nobody holds, one that is held and was never unmasked: neither disturbs a neighbour.
        device.raise(9);
        device.raise(15);
        guest.settle(1);
        assert_eq!((guest.all_interrupts(0), guest.all_interrupts(1)), (0, 3));
        assert!(cards[1].is_pending(&guest, 0, 1));
        assert!(parent.alloc_at(HostVector(hosts[2])).is_err(), "it is the sub-device's");

        // The sub-device grows, and frees: the entry is the parent's again.
        guest.perform(0, &cards[2].request(3, fixed(1, 0x50)));
        device.raise(3);
        guest.wait_for(1, 0x50, 1);
        guest.perform(0, &cards[2].release(3));
        assert_eq!(parent.alloc_at(HostVector(3)).unwrap().host_vector(), HostVector(3));
    }
}

#[test]
fn functions_that_use_the_same_message_each_deliver() {
    let Shared { guest, cards, hosts, device, .. } = shared(Irqchip::Kernel);
    for card in &cards {
        guest.perform(0, &card.message(0, fixed(1, 0x60)));
    }
    for (count, host) in (1..).zip(hosts) {
        device.raise(host);
        guest.wait_for(1, 0x60, count);
    }
}

#[test]
fn turning_msi_x_off_in_one_function_leaves_the_others_on() {
    let Shared { guest, cards, hosts, device, .. } = shared(Irqchip::Kernel);
    for off in [0, 2, 1] {
        guest.perform(0, &[cards[off].control(0)]);
        for (index, host) in hosts.into_iter().enumerate().filter(|(index, _)| *index != off) {
            let handler = 0x40 + index as u8;
            let before = guest.interrupts(1, handler);
            device.raise(host);
            guest.wait_for(1, handler, before + 1);
        }
        guest.perform(0, &[cards[off].control(ENABLE)]);
    }
}

#[test]
fn while_one_function_comes_and_goes_the_others_lose_nothing_and_get_nothing_of_its() {
    const ROUNDS: u32 = 40;
    let Shared { guest, cards, hosts, device, pool, router, .. } = shared(Irqchip::Kernel);
    let running = AtomicBool::new(true);
    let raised = [0, 2].map(|_| AtomicU64::new(0));
    let steady = [(0x40, hosts[0]), (0x42, hosts[2])];
    thread::scope(|scope| {
        for ((handler, host), raised) in steady.into_iter().zip(&raised) {
            let (guest, device, running) = (&guest, &device, &running);
            scope.spawn(move || {
                while running.load(Ordering::Relaxed) {
                    let note = raised.load(Ordering::Relaxed) + 1;
                    guest.note(handler, note);
                    raised.store(note, Ordering::Relaxed);
                    device.raise(host);
                    // The guest has other things to do as well.
                    thread::sleep(Duration::from_micros(200));
                }
            });
        }
        let _end = Ends(&running);
        for round in 0..ROUNDS {
            let part = LogicalFunction::new([pool.alloc_any(9..11).unwrap(), pool.alloc_any(9..11).unwrap()]);
            assert_eq!(
                pool.report().counters.strays,
                u64::from(2 * round),
                "each is taken away once, and counted"
            );
            let vector_map = part.vector_map();
            let function = MsixFunction::new(table_layout(2), router.clone(), part);
            function.write_config(2, &ENABLE.to_le_bytes());
            for vector in 0..2u32 {
                let message = fixed(1, 0x50 + vector as u8);
                let entry = [message.address_low(), message.address_high(), message.data, 0];
                function.write_table(u64::from(vector) * 16, &entry.map(u32::to_le_bytes).concat());
            }
            guest.settle(1);
            let came = [0x50, 0x51].map(|handler| guest.interrupts(1, handler));
            assert_eq!(came, [u64::from(round); 2], "nothing of the one before it");
            let own = [0, 1].map(|vector| host(&vector_map, vector));
            for (handler, host) in (0x50..).zip(own) {
                device.raise(host);
                guest.wait_for(1, handler, u64::from(round) + 1);
            }
            drop(function);
            // Its part of the device does not know yet, and the next has the same vectors.
            own.into_iter().for_each(|host| device.raise(host));
        }
    });
    for ((handler, _), raised) in steady.into_iter().zip(&raised) {
        let raised = raised.load(Ordering::Relaxed);
        eventually(|| guest.seen(handler) == raised, || format!("interrupt {raised} of {handler:#x}"));
    }
    assert_eq!(cards.each_ref().map(|card| card.msix.report().live), [1, 1, 1]);
}

/// Ends the device's threads, also if the test panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
