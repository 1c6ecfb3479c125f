//! IMS slots in guest memory on real KVM: the guest's instructions write them, and a doorbell puts them in force.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_msi::kvm::Irqchip;
use vm_msi::{Delivery, MsiMessage, Store, Vector};

use crate::bare_metal::{IRQCHIPS, MASKED, Machine, Queue, fixed};

const SLOT: u32 = 700;

#[test]
fn a_slot_in_memory_delivers_latches_and_moves_at_its_doorbell_and_at_no_other_time() {
    for irqchip in IRQCHIPS {
        let mut machine = Machine::new(irqchip, 2);
        let queue = machine.plug_queue(1024);
        let guest = machine.start();
        let rewrite = |message, control| drop(guest.perform(0, &Queue::rewrite(SLOT, message, control)));
        let ring = || drop(guest.perform(0, &[queue.ring(SLOT)]));
        rewrite(fixed(0, 0x41), 0);
        guest.perform(0, &queue.place(SLOT));
        assert_eq!(queue.device.bound(), 0, "nobody has rung");
        ring();
        queue.device.raise(SLOT);
        guest.wait_for(0, 0x41, 1);

        // What the guest writes is its own until it rings.
        rewrite(fixed(1, 0x42), MASKED);
        queue.device.raise(SLOT);
        guest.wait_for(0, 0x41, 2);
        ring();
        (0..3).for_each(|_| queue.device.raise(SLOT));
        guest.settle(0);
        guest.settle(1);
        assert_eq!((guest.interrupts(0, 0x41), guest.interrupts(1, 0x42)), (2, 0));
        assert_eq!(queue.ims.pending(SLOT / 64), 1 << (SLOT % 64));
        rewrite(fixed(1, 0x42), 0);
        ring();
        guest.wait_for(1, 0x42, 1);

        rewrite(MsiMessage::BLANK, MASKED);
        ring();
        assert_eq!(queue.device.bound(), 0, "freed");
    }
}

#[test]
fn every_slot_of_1024_in_memory_fires_its_own_handler() {
    let mut machine = Machine::new(Irqchip::Kernel, 8);
    let queue = machine.plug_queue(1024);
    let guest = machine.start();
    let message = |slot: u32| fixed((slot / 128) as u8, 0x20 + (slot % 128) as u8);
    let requests: Vec<_> = (0..1024)
        .rev()
        .flat_map(|slot| {
            let written = Queue::rewrite(slot, message(slot), 0);
            written.into_iter().chain(queue.place(slot)).chain([queue.ring(slot)])
        })
        .collect();
    guest.perform(0, &requests);
    assert_eq!(queue.ims.report().live, 1024);
    for count in 1..=2 {
        (0..1024).for_each(|slot| queue.device.raise(slot));
        (0..1024).for_each(|slot| guest.wait_for((slot / 128) as u8, 0x20 + (slot % 128) as u8, count));
    }
}

/// A guest rewrites a slot without pause, between two messages that differ in every part, while the VMM handles its doorbell. The device
/// reads one of the two messages or a masked slot. Its interrupt is delivered as the message that it has read, or stays pending.
#[test]
fn a_slot_that_is_rewritten_while_its_doorbell_is_served_is_one_of_its_messages_whole_or_none() {
    const DOORBELLS: u32 = 1000;
    const BURST: usize = 200;
    const BURSTS: u32 = 100;
    if !std::arch::is_x86_feature_detected!("avx") {
        println!("not tested: this CPU cannot read 16 bytes at once");
        return;
    }
    let messages = [fixed(0, 0x41), fixed(1, 0x42)];
    let mut machine = Machine::new(Irqchip::Kernel, 2);
    let queue = machine.plug_queue(1024);
    let guest = machine.start();
    queue.rewrite_masked(SLOT, messages[0]);
    guest.perform(0, &queue.place(SLOT));
    let ended = AtomicBool::new(false);
    let (mut delivered, mut none) = ([0; 2], 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                messages.iter().for_each(|message| queue.rewrite_masked(SLOT, *message));
            }
        });
        let _ends = Ends(&ended);
        let mut waits = false;
        for _ in 0..DOORBELLS {
            guest.perform(0, &[queue.ring(SLOT)]);
            let Delivery::Live(message) = queue.ims.look(|queue| queue.delivery(Vector(SLOT))) else {
                queue.device.raise(SLOT);
                (none, waits) = (none + 1, true);
                continue;
            };
            let which = messages.iter().position(|written| *written == message);
            let which = which.unwrap_or_else(|| panic!("{message} was never written"));
            let mut comes = || {
                delivered[which] += 1;
                guest.wait_for([0, 1][which], [0x41, 0x42][which], delivered[which]);
            };
            if std::mem::take(&mut waits) {
                comes();
            }
            queue.device.raise(SLOT);
            comes();
        }
        // Now without waiting for anyone: the device raises all the time, so that no message of two halves is in force for
        // a moment and has no interrupt.
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                queue.device.raise(SLOT);
            }
        });
        let doorbells = vec![queue.ring(SLOT); BURST];
        (0..BURSTS).for_each(|_| drop(guest.perform(0, &doorbells)));
    });
    let halves = || [guest.interrupts(0, 0x42), guest.interrupts(1, 0x41)];
    assert_eq!(halves(), [0; 2], "halves of two messages");
    println!(
        "of {DOORBELLS} doorbells {none} found the slot masked; {delivered:?} interrupts of each message"
    );
    assert!(none > 0 && delivered.iter().all(|count| *count > 0), "the slot was rewritten meanwhile");
}

/// Ends the other thread, also if the test panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
