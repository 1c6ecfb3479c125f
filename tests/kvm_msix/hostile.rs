//! A guest that makes accesses of any offset, width and value, aligned or not, across the edges of table, PBA and pages, from several CPUs
//! while interrupts arrive. It reads the bytes that a bus with byte enables would return, and the VMM keeps running.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_msi::kvm::Irqchip;
use vm_msi::testing::MsixReference;

use crate::bare_metal::{Card, ENABLE, Guest, Machine, Operation, fixed, turn_of_thousands};

const WIDTHS: [u8; 4] = [1, 2, 4, 8];
const VALUES: [u64; 3] = [0, u64::MAX, 0x0041_00fe_e010_0041];

/// The table as a CPU reads it.
fn table(guest: &Guest, card: &Card, vectors: u16) -> Vec<u8> {
    let reads: Vec<_> =
        (0..u64::from(vectors) * 2).map(|qword| Operation::read(card.entry(0) + qword * 8, 8)).collect();
    guest.perform(0, &reads).into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Checks that the function works for the next driver.
fn assert_works(guest: &Guest, card: &Card, vector: u32) {
    card.msix.reset(|| card.device.reset());
    guest.settle(0);
    let before = guest.interrupts(0, 0xd0);
    guest.perform(0, &[card.control(ENABLE)]);
    guest.perform(0, &card.request(vector, fixed(0, 0xd0)));
    card.device.raise(vector);
    guest.wait_for(0, 0xd0, before + 1);
    assert_eq!(card.msix.failed_steps(), 0);
}

#[test]
fn the_table_is_as_memory_to_accesses_of_every_offset_width_and_alignment() {
    const VECTORS: u16 = 3;
    let (guest, card) = Machine::with_card(Irqchip::Kernel, 1, VECTORS);
    for control in [0, ENABLE] {
        card.msix.reset(|| card.device.reset());
        guest.perform(0, &[card.control(control)]);
        let mut model = MsixReference::new(VECTORS);
        for value in VALUES {
            for width in WIDTHS {
                for offset in 0..u64::from(VECTORS) * 16 + 8 {
                    guest.write(0, card.bar() + offset, width, value);
                    model.write_table(offset as usize, &value.to_le_bytes()[..usize::from(width)]);
                    let read = guest.read(0, card.bar() + offset, width);
                    let expected = model.table().iter().skip(offset as usize).take(width.into());
                    let own = expected.clone().count();
                    let expected: Vec<u8> = expected.copied().collect();
                    assert_eq!(&read.to_le_bytes()[..own], expected, "{width} bytes at {offset:#x}");
                }
                assert_eq!(table(&guest, &card, VECTORS), model.table());
            }
        }
    }
    assert_works(&guest, &card, 1);
}

#[test]
fn a_write_across_the_end_of_the_table_and_of_its_page_reaches_both_neighbours() {
    let _turn = turn_of_thousands();
    let (guest, card) = Machine::with_card(Irqchip::Kernel, 1, 2048);
    let end = card.bar() + 2048 * 16;
    card.device.raise(0);
    card.device.raise(9);
    guest.write(0, end - 4, 8, u64::MAX - 1);
    assert_eq!(guest.read(0, end - 4, 4), 0, "the last vector's mask bit was cleared");
    assert_eq!(guest.read(0, end, 8), 1 << 9 | 1, "pending bits are read-only");
    assert_eq!(guest.read(0, end - 4, 8), (1 << 9 | 1) << 32);
    assert_eq!(guest.read(0, end + 1, 1), 0b10);
    assert_works(&guest, &card, 2047);
}

#[test]
fn every_access_to_configuration_space_is_answered_and_changes_only_what_may_be_written() {
    let (guest, card) = Machine::with_card(Irqchip::Kernel, 1, 4);
    let capability =
        |guest: &Guest| guest.perform(0, &[0, 8].map(|at| Operation::read(card.config() + at, 8)));
    let before = capability(&guest);
    for value in VALUES {
        for width in WIDTHS {
            for offset in 0..32 {
                guest.write(0, card.config() + offset, width, value);
                guest.read(0, card.config() + offset, width);
                let writable = 0xc000u64 << 16;
                let now = capability(&guest);
                assert_eq!((now[0] & !writable, now[1]), (before[0] & !writable, before[1]));
            }
        }
    }
    assert_works(&guest, &card, 3);
}

#[test]
fn cpus_that_write_at_random_while_interrupts_come_do_not_stop_the_vmm() {
    let _turn = turn_of_thousands();
    const CPUS: u8 = 2;
    const VECTORS: u16 = 2048;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (guest, card) = Machine::with_card(Irqchip::Kernel, CPUS, VECTORS);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(seed);
            while !done.load(Ordering::Relaxed) {
                card.device.raise(rng.u32(0..u32::from(VECTORS)));
                thread::yield_now();
            }
        });
        let writers = (0..CPUS).map(|cpu| {
            let (guest, card) = (&guest, &card);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(cpu.into()));
                for _ in 0..20 {
                    let operations: Vec<_> = (0..500).map(|_| at_random(&mut rng, card)).collect();
                    guest.perform(cpu, &operations);
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    assert_works(&guest, &card, 77);
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A random access. Valid messages, mask bits and Message Control are more likely than others.
fn at_random(rng: &mut fastrand::Rng, card: &Card) -> Operation {
    let vector = rng.u32(0..8) * 292;
    let width = rng.choice(WIDTHS).unwrap_or(4);
    let value = match rng.u8(0..4) {
        0 => fixed(rng.u8(0..4), rng.u8(..)).address | u64::from(rng.u8(..)) << 32,
        1 => rng.u8(..).into(),
        2 => rng.u64(0..2),
        _ => rng.u64(..),
    };
    let address = match rng.u8(0..10) {
        0..4 => card.entry(vector) + rng.u64(0..4) * 4,
        4..6 => card.entry(vector) + rng.u64(0..16),
        6 => card.bar() + rng.u64(0..0x9000),
        7 => card.pba() + rng.u64(0..0x100),
        8 => card.config() + rng.u64(0..16),
        _ => return Operation::write(card.config() + 2, 2, rng.u64(..) | u64::from(ENABLE)),
    };
    if rng.u8(0..4) == 0 { Operation::read(address, width) } else { Operation::write(address, width, value) }
}
