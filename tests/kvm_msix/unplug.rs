//! A card is unplugged while it and another card raise interrupts, and a new card takes its slot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vm_msi::kvm::KvmRouter;
use vm_msi::{DeviceBudget, MsixFunction};

use crate::bare_metal::{
    Card, Device, DeviceBackend, ENABLE, Guest, IRQCHIPS, Machine, eventually, fixed, table_layout,
};

const VECTORS: u8 = 16;
const ROUNDS: u32 = 20;

/// The card that stays. Its interrupts go to CPU 0.
const STEADY: u8 = 0x40;
/// The card that is unplugged. Its interrupts go to CPU 1.
const GOING: u8 = 0x60;

/// A card on no bus. The test makes the guest's accesses itself, so that it can drop the card.
fn plug(router: &Arc<KvmRouter>, budget: &Arc<DeviceBudget>, device: &Arc<Device>) -> MsixFunction {
    let backend = DeviceBackend(device.clone());
    let msix =
        MsixFunction::new(table_layout(VECTORS.into()), router.clone(), backend).with_budget(budget.clone());
    msix.write_config(2, &ENABLE.to_le_bytes());
    for vector in 0..VECTORS {
        let message = fixed(1, GOING + vector);
        let entry = [message.address_low(), message.address_high(), message.data, 0];
        msix.write_table(u64::from(vector) * 16, &entry.map(u32::to_le_bytes).concat());
    }
    msix
}

/// The card that stays raises its vectors and counts them until the test ends.
fn storm(guest: &Guest, card: &Card, notes: &[AtomicU64], ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        for _ in 0..fastrand::u32(1..10) {
            let vector = fastrand::u8(0..VECTORS);
            let note = notes[usize::from(vector)].fetch_add(1, Ordering::Relaxed) + 1;
            guest.note(STEADY + vector, note);
            card.device.raise(vector.into());
        }
        // The guest's CPU gets a turn.
        thread::sleep(Duration::from_micros(50));
    }
}

#[test]
fn a_card_unplugged_in_a_storm_is_silent_at_once_and_another_goes_on_and_the_next_works() {
    for irqchip in IRQCHIPS {
        let mut machine = Machine::new(irqchip, 2);
        let (card, router, vm) = (machine.plug(VECTORS.into()), machine.router(), machine.budget());
        let guest = machine.start();
        guest.perform(0, &[card.control(ENABLE)]);
        let requests: Vec<_> =
            (0..VECTORS).flat_map(|vector| card.request(vector.into(), fixed(0, STEADY + vector))).collect();
        guest.perform(0, &requests);
        let steady = router.counters().in_use;
        let budget = vm.admit(0, None).unwrap();
        let notes: Vec<AtomicU64> = (0..VECTORS).map(|_| AtomicU64::default()).collect();
        let ends = AtomicBool::new(false);
        let going = Mutex::new(Device::new(VECTORS.into()));
        thread::scope(|scope| {
            let _end = End(&ends);
            scope.spawn(|| storm(&guest, &card, &notes, &ends));
            scope.spawn(|| {
                // It does not know when it is unplugged, and goes on for a while.
                while !ends.load(Ordering::Relaxed) {
                    let device = going.lock().unwrap().clone();
                    (0..10).for_each(|_| device.raise(fastrand::u32(0..u32::from(VECTORS))));
                    thread::sleep(Duration::from_micros(50));
                }
            });
            for round in 0..ROUNDS {
                let device = going.lock().unwrap().clone();
                let msix = plug(&router, &budget, &device);
                assert_eq!(budget.report().used, u32::from(VECTORS));
                // It works: each of its vectors comes.
                for vector in 0..VECTORS {
                    let before = guest.interrupts(1, GOING + vector);
                    device.raise(vector.into());
                    let came = || guest.interrupts(1, GOING + vector) > before;
                    eventually(came, || format!("an interrupt of vector {vector} in round {round}"));
                }
                thread::sleep(Duration::from_micros(fastrand::u64(0..2000)));
                drop(msix);

                let count = || (0..VECTORS).map(|vector| guest.interrupts(1, GOING + vector)).sum::<u64>();
                guest.settle(1);
                let before = count();
                (0..VECTORS).for_each(|vector| device.raise(vector.into()));
                thread::sleep(Duration::from_millis(2));
                guest.settle(1);
                assert_eq!(count(), before, "interrupts of a card that is gone, in round {round}");
                assert_eq!((device.bound(), budget.report().used, router.counters().in_use), (0, 0, steady));
                // The next card has nothing pending.
                *going.lock().unwrap() = Device::new(VECTORS.into());
            }
        });
        for (vector, note) in (0..VECTORS).zip(&notes) {
            let note = note.load(Ordering::Relaxed);
            let seen = || guest.seen(STEADY + vector);
            eventually(|| seen() == note, || format!("interrupt {note} of vector {vector}: {}", seen()));
        }
        assert_eq!(vm.report().used, u32::from(VECTORS), "the card that stayed");
    }
}

/// Ends the threads, also if the test panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
