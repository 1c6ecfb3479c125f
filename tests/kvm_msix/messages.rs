//! MSI on real KVM: 1 to 32 vectors from one message.
//!
//! The real part is KVM. The device is the test's, so that its messages can be masked: `tests/linux/msi.rs` has a real
//! device of 16 messages, which has no mask bits, and no guest.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use vm_msi::MsiMessage;
use vm_msi::kvm::Irqchip;
use vm_msi::msi::{AddressWidth, MessageCount, MsiLayout, VectorMasking};

use crate::bare_metal::{Guest, IRQCHIPS, Machine, MsiCard, eventually, fixed};

/// The first of 32 interrupts.
const FIRST: u8 = 0x40;

fn layout(messages: u32, address: AddressWidth, masking: VectorMasking) -> MsiLayout {
    MsiLayout::new(MessageCount::new(messages).unwrap(), address, masking)
}

/// A guest of two CPUs with a function of `messages` messages, a 64-bit address and mask bits.
fn guest_with(irqchip: Irqchip, messages: u32) -> (Guest, std::sync::Arc<MsiCard>) {
    let mut machine = Machine::new(irqchip, 2);
    let card = machine.plug_messages(layout(messages, AddressWidth::Bits64, VectorMasking::Present));
    (machine.start(), card)
}

fn handler(vector: u32) -> u8 {
    FIRST + vector as u8
}

/// PCIe r6 §7.7.1.2, §7.7.1.5: the function changes as many low bits of the data as it has vectors allocated.
#[test]
fn each_of_the_messages_that_were_granted_fires_its_own_handler() {
    for irqchip in IRQCHIPS {
        let (guest, card) = guest_with(irqchip, 32);
        // The low bits are the function's to set, whatever the driver writes there.
        guest.perform(0, &card.message(fixed(1, FIRST + 0x1f)));
        let mut count = [0; 32];
        for log2 in [0, 1, 2, 3, 4, 5, 2, 5] {
            guest.perform(0, &[card.enable(log2)]);
            // With fewer than 32 messages the higher bits of the data stay as the driver has written them.
            let written = 0x1f & !((1u32 << log2) - 1);
            for vector in 0..1 << log2 {
                card.device.raise(vector);
                count[(vector | written) as usize] += 1;
                guest.wait_for(1, handler(vector | written), count[(vector | written) as usize]);
            }
            assert_eq!(card.device.bound(), 1 << log2);
            guest.perform(0, &[card.disable()]);
            assert_eq!(card.device.bound(), 0);
        }
        guest.settle(1);
        assert_eq!((guest.all_interrupts(0), guest.all_interrupts(1)), (0, count.iter().sum()));
    }
}

#[test]
fn a_capability_of_any_shape_delivers() {
    for irqchip in IRQCHIPS {
        for address in [AddressWidth::Bits32, AddressWidth::Bits64] {
            for masking in [VectorMasking::Absent, VectorMasking::Present] {
                let mut machine = Machine::new(irqchip, 2);
                let card = machine.plug_messages(layout(4, address, masking));
                let guest = machine.start();
                guest.perform(0, &card.message(fixed(1, FIRST)));
                guest.perform(0, &[card.enable(2)]);
                for vector in 0..4 {
                    card.device.raise(vector);
                    guest.wait_for(1, handler(vector), 1);
                }
            }
        }
    }
}

/// PCIe r6 §7.7.1.7, §7.7.1.8.
#[test]
fn a_masked_message_waits_in_its_pending_bit_and_fires_once_when_unmasked() {
    for irqchip in IRQCHIPS {
        let (guest, card) = guest_with(irqchip, 8);
        guest.perform(0, &card.message(fixed(1, FIRST)));
        // Vector 6 was never unmasked, vector 1 is masked after use.
        guest.perform(0, &[card.mask(1 << 6), card.enable(3)]);
        card.device.raise(1);
        guest.wait_for(1, handler(1), 1);
        guest.perform(0, &[card.mask(1 << 6 | 1 << 1)]);
        assert_eq!(guest.perform(0, &[card.read_pending()]), [0]);
        for _ in 0..100 {
            [1, 6].iter().for_each(|vector| card.device.raise(*vector));
        }
        assert_eq!(guest.perform(0, &[card.read_pending()]), [1 << 6 | 1 << 1]);
        card.device.raise(2);
        guest.wait_for(1, handler(2), 1);
        guest.settle(1);
        assert_eq!((guest.interrupts(1, handler(1)), guest.interrupts(1, handler(6))), (1, 0), "masked");
        guest.perform(0, &[card.mask(0)]);
        guest.wait_for(1, handler(1), 2);
        guest.wait_for(1, handler(6), 1);
        assert_eq!(guest.perform(0, &[card.read_pending()]), [0]);
    }
}

#[test]
fn one_write_of_the_address_moves_every_message() {
    let (guest, card) = guest_with(Irqchip::Kernel, 16);
    guest.perform(0, &card.message(fixed(0, FIRST)));
    guest.perform(0, &[card.enable(4)]);
    for round in 1..=20 {
        for cpu in [1, 0] {
            guest.perform(0, &card.message(fixed(cpu, FIRST))[..1]);
            for vector in 0..16 {
                card.device.raise(vector);
                guest.wait_for(cpu, handler(vector), round);
            }
        }
    }
    assert_eq!((guest.all_interrupts(0), guest.all_interrupts(1)), (20 * 16, 20 * 16));
}

#[test]
fn messages_whose_data_is_no_interrupt_harm_no_other() {
    let (guest, card) = guest_with(Irqchip::Kernel, 32);
    guest.perform(0, &card.message(MsiMessage { data: 0, ..fixed(1, 0) }));
    guest.perform(0, &[card.enable(5)]);
    // Of vectors 0 to 31 an APIC takes those from 16 on.
    (0..32).for_each(|vector| card.device.raise(vector));
    for vector in 16..32 {
        guest.wait_for(1, vector, 1);
    }
    guest.settle(1);
    assert_eq!(guest.all_interrupts(1), 16);
}

/// A device raises all 32 messages repeatedly while a driver masks and unmasks one vector after the other. No interrupt is lost: when a
/// vector is unmasked, its handler sees the device's last note.
#[test]
fn messages_that_are_masked_while_they_are_raised_lose_nothing() {
    const STEPS: u32 = 1000;
    let (guest, card) = guest_with(Irqchip::Kernel, 32);
    guest.perform(0, &card.message(fixed(1, FIRST)));
    guest.perform(0, &[card.enable(5)]);
    let (done, steps) = (AtomicBool::new(false), AtomicU32::new(0));
    let notes: [std::sync::Mutex<u64>; 32] = Default::default();
    thread::scope(|scope| {
        let _end = Done(&done);
        scope.spawn(|| {
            for vector in (0..32).cycle().take_while(|_| !done.load(Ordering::Relaxed)) {
                let mut note = notes[vector as usize].lock().unwrap();
                *note += 1;
                guest.note(handler(vector), *note);
                card.device.raise(vector);
                drop(note);
                // One round in each of the driver's steps, or the guest would do nothing but take interrupts.
                let begun = steps.load(Ordering::Relaxed);
                while vector == 31 && steps.load(Ordering::Relaxed) == begun && !done.load(Ordering::Relaxed)
                {
                    thread::sleep(Duration::from_micros(20));
                }
            }
        });
        let mut rng = fastrand::Rng::with_seed(7);
        for step in 0..STEPS {
            steps.store(step, Ordering::Relaxed);
            // Now and then, others too.
            let mask = if step % 50 == 0 { rng.u32(..) } else { 0 };
            let vector = rng.u32(0..32);
            guest.perform(0, &[card.mask(mask | 1 << vector)]);
            guest.settle(1);
            let silent = guest.interrupts(1, handler(vector));
            guest.perform(0, &[card.read_pending()]);
            assert_eq!(guest.interrupts(1, handler(vector)), silent, "vector {vector} is masked");
            guest.perform(0, &[card.mask(mask & !(1 << vector))]);
            let note = *notes[vector as usize].lock().unwrap();
            let seen = || guest.seen(handler(vector));
            eventually(|| seen() >= note, || format!("ring {note} of vector {vector}: {} seen", seen()));
        }
    });
    guest.perform(0, &[card.mask(0)]);
    for (vector, note) in (0..).zip(&notes) {
        let note = *note.lock().unwrap();
        eventually(|| guest.seen(handler(vector)) == note, || format!("the last ring of vector {vector}"));
    }
}

/// Ends the device's thread, also if the test panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
