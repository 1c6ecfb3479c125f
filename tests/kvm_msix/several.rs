//! Several VMs in one process. Each has its own GSIs, routes and interrupts, also if their numbers are equal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_msi::kvm::{Irqchip, KvmRouter};

use crate::bare_metal::{Card, ENABLE, FUNCTION_MASK, Guest, Machine, fixed};

const VECTORS: u8 = 64;

struct Vm {
    guest: Guest,
    card: Arc<Card>,
    router: Arc<KvmRouter>,
}

impl Vm {
    /// A VM whose card has all its vectors in use. Every VM of a test is the same.
    fn new() -> Self {
        let mut machine = Machine::new(Irqchip::Kernel, 1);
        let card = machine.plug(VECTORS.into());
        let router = machine.router();
        let guest = machine.start();
        let vm = Self { guest, card, router };
        vm.request();
        vm
    }

    fn request(&self) {
        let requests: Vec<_> =
            (0..VECTORS).flat_map(|v| self.card.request(v.into(), fixed(0, 0x40 + v))).collect();
        self.guest.perform(0, &[self.card.control(ENABLE)]);
        self.guest.perform(0, &requests);
    }

    /// Raises all vectors, and waits until the guest has taken the interrupts.
    fn round(&self, count: u64) {
        (0..VECTORS).for_each(|vector| self.card.device.raise(vector.into()));
        (0..VECTORS).for_each(|vector| self.guest.wait_for(0, 0x40 + vector, count));
    }

    fn gsis(&self) -> Vec<u32> {
        let vectors = self.card.msix.report().vectors;
        vectors.iter().map(|vector| vector.gsi.unwrap().0).collect()
    }
}

#[test]
fn vms_with_equal_messages_devices_and_gsis_do_not_disturb_each_other() {
    let [one, other] = [Vm::new(), Vm::new()];
    assert_eq!(one.gsis(), other.gsis(), "the numbers are the same");
    one.round(1);
    other.guest.settle(0);
    assert_eq!(other.guest.all_interrupts(0), 0, "interrupts of another VM");
    other.round(1);

    // Whatever one does to its own, up to the end of its life, the other's interrupts come as ever.
    let done = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let rounds = scope.spawn(|| {
            let mut rounds = 1;
            while !done.load(Ordering::Relaxed) || rounds < 3 {
                rounds += 1;
                other.round(rounds);
            }
            rounds
        });
        let commits = other.router.counters().commits;
        // The whole of its routing table.
        one.router.publish_destinations(0..30).unwrap();
        for _ in 0..20 {
            let control = |control| one.guest.perform(0, &[one.card.control(control)]);
            control(ENABLE | FUNCTION_MASK);
            control(ENABLE);
            one.card.msix.reset(|| one.card.device.reset());
            one.request();
        }
        assert_eq!(one.router.counters().published, one.router.counters().capacity);
        assert_eq!(other.router.counters().commits, commits, "its table is its own");
        drop(one);
        done.store(true, Ordering::Relaxed);
        rounds.join().unwrap()
    });
    assert_eq!(other.guest.all_interrupts(0), rounds * u64::from(VECTORS));
    assert_eq!(other.card.msix.report().live, u32::from(VECTORS));
}
