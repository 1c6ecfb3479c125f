//! An interrupt line of the VMM on real KVM. Its signals reach the vCPU that its message names, and none is lost when the message changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_msi::Interrupt;
use vm_msi::kvm::KvmRouter;
use vm_msi::line::Line;

use crate::bare_metal::{IRQCHIPS, Machine, eventually, fixed};

fn interrupt(vector: u8) -> Interrupt {
    Interrupt::new(fixed(0, vector))
}

#[test]
fn a_signal_before_between_and_after_messages_is_delivered() {
    for irqchip in IRQCHIPS {
        let machine = Machine::new(irqchip, 1);
        let router: Arc<KvmRouter> = machine.router();
        let guest = machine.start();
        let line = Line::new(router.clone()).unwrap();
        line.eventfd().write(1).unwrap();
        guest.settle(0);
        assert_eq!(guest.all_interrupts(0), 0);
        line.set(interrupt(0x41)).unwrap();
        guest.wait_for(0, 0x41, 1);
        line.eventfd().write(1).unwrap();
        guest.wait_for(0, 0x41, 2);
        line.clear().unwrap();
        line.eventfd().write(1).unwrap();
        guest.settle(0);
        line.set(interrupt(0x42)).unwrap();
        guest.wait_for(0, 0x42, 1);
        guest.settle(0);
        assert_eq!(guest.all_interrupts(0), 3);
        line.close().unwrap();
        assert_eq!(router.counters().in_use, 0);
    }
}

#[test]
fn no_signal_is_lost_while_the_message_changes() {
    let machine = Machine::new(IRQCHIPS[0], 1);
    let router: Arc<KvmRouter> = machine.router();
    let guest = machine.start();
    let line = Line::new(router).unwrap();
    line.set(interrupt(0x41)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for vector in (0x50..0x90).cycle() {
                line.set(interrupt(vector)).unwrap();
                if done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for _ in 0..200 {
            let before = guest.all_interrupts(0);
            line.eventfd().write(1).unwrap();
            eventually(|| guest.all_interrupts(0) > before, || "an interrupt for the signal".into());
        }
        done.store(true, Ordering::Relaxed);
        changes.join().unwrap();
    });
}
