//! A storm: threads of the device raise interrupts while the guest masks, moves, frees and requests its vectors at random, by messages or
//! by the entries of a remapping unit. No interrupt is lost, and no masked vector delivers one.
//!
//! `STORM_SIGNALS` sets how many interrupts are raised (default 100,000), `STORM_SEED` repeats a run.

use std::env;
use std::hint;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_msi::MsiMessage;
use vm_msi::kvm::Irqchip;
use vm_msi::remap::handle;

use crate::bare_metal::{Card, ENABLE, FUNCTION_MASK, Guest, Machine, Operation, eventually, fixed};
use crate::remapping::{RemappedCard, Unit};

const VECTORS: u32 = 64;
const CPUS: u8 = 3;

/// For so many signals of a storm, one growth of a vector that is raised meanwhile.
const SIGNALS_A_GROWTH: u64 = 5;

/// The interrupt that a vector of the table is for, on whichever CPU.
fn handler(vector: u32) -> u8 {
    0x30 + vector as u8
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

fn signals() -> u64 {
    setting("STORM_SIGNALS").unwrap_or(100_000)
}

#[test]
fn in_a_storm_no_interrupt_is_lost_and_none_comes_where_it_must_not() {
    storm_without_remapping(Irqchip::Kernel);
}

#[test]
fn in_a_storm_on_a_split_irqchip_no_interrupt_is_lost_and_none_comes_where_it_must_not() {
    storm_without_remapping(Irqchip::Split);
}

#[test]
fn in_a_storm_behind_a_remapping_unit_no_interrupt_is_lost_and_none_comes_where_it_must_not() {
    let mut machine = Machine::new(Irqchip::Split, CPUS);
    let (unit, card) = Unit::plug(&mut machine, VECTORS as u16);
    storm(&machine.start(), &card, &ByEntry { unit: &unit, card: &card });
}

#[test]
fn in_a_storm_on_vectors_that_a_thread_grows_no_interrupt_is_lost_and_none_comes_where_it_must_not() {
    let (guest, card) = Machine::with_card(Irqchip::Kernel, CPUS, VECTORS as u16);
    let growth = card.msix.deferred_bind_fd().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let grown = scope.spawn(|| {
            let mut grown = 0;
            while !done.load(Ordering::Relaxed) {
                let a_while = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                if poll(&mut [PollFd::new(&growth, PollFlags::IN)], Some(&a_while)) == Ok(1) {
                    card.msix.bind_deferred();
                    grown += 1;
                }
            }
            grown
        });
        let ended = Done(&done);
        storm(&guest, &card, &ByMessage(&card));
        drop(ended);
        assert!(grown.join().unwrap() > 0, "the thread has grown vectors");
    });
}

/// The device raises the vector once, as soon as it has its eventfd. If the eventfd becomes an irqfd only later, KVM may deliver the signal
/// twice: a few of 20,000.
#[test]
fn a_vector_that_is_raised_while_it_grows_fires_once() {
    let (guest, card) = Machine::with_card(Irqchip::Kernel, 1, 1);
    card.msix.deferred_bind_fd().unwrap();
    guest.perform(0, &[card.control(ENABLE)]);
    let (told, raised) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let _end = EndOfGrowth(&told);
        scope.spawn(|| {
            for time in 1.. {
                while told.load(Ordering::Acquire) < time {
                    hint::spin_loop();
                }
                if told.load(Ordering::Acquire) == u64::MAX {
                    return;
                }
                while card.device.bound() == 0 && told.load(Ordering::Acquire) == time {
                    hint::spin_loop();
                }
                (0..fastrand::u32(0..20)).for_each(|_| hint::spin_loop());
                card.device.raise(0);
                raised.store(time, Ordering::Release);
            }
        });
        for time in 1..=signals() / SIGNALS_A_GROWTH {
            guest.perform(0, &card.request(0, fixed(0, handler(0))));
            told.store(time, Ordering::Release);
            card.msix.bind_deferred();
            eventually(|| raised.load(Ordering::Acquire) == time, || "the device to raise".into());
            eventually(|| guest.interrupts(0, handler(0)) >= time, || format!("interrupt {time}"));
            guest.perform(0, &card.release(0));
            guest.settle(0);
            assert_eq!(guest.interrupts(0, handler(0)), time, "one for each time that it was raised");
        }
    });
}

/// Ends the device's thread, also if the test panics.
struct EndOfGrowth<'a>(&'a AtomicU64);

impl Drop for EndOfGrowth<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX, Ordering::Release);
    }
}

/// Ends a thread, also if its test panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn storm_without_remapping(irqchip: Irqchip) {
    let (guest, card) = Machine::with_card(irqchip, CPUS, VECTORS as u16);
    storm(&guest, &card, &ByMessage(&card));
}

/// How a guest sets the destination of a vector.
trait Aim: Sync {
    /// The message that it writes.
    fn message(&self, vector: u32, cpu: u8) -> MsiMessage;

    /// The guest's preparation before it first requests a vector.
    fn prepare(&self, vector: u32, cpu: u8);

    /// Moves a vector, masked or not. Its handler is the same everywhere.
    fn turn(&self, guest: &Guest, by: u8, vector: u32, cpu: u8);
}

/// The message has the destination. A move is one write.
struct ByMessage<'a>(&'a Card);

impl Aim for ByMessage<'_> {
    fn message(&self, vector: u32, cpu: u8) -> MsiMessage {
        fixed(cpu, handler(vector))
    }

    fn prepare(&self, _: u32, _: u8) {}

    fn turn(&self, guest: &Guest, by: u8, vector: u32, cpu: u8) {
        guest.perform(by, &[self.0.message(vector, self.message(vector, cpu))[0]]);
    }
}

/// A remapping entry has the destination, and the message names the entry.
struct ByEntry<'a> {
    unit: &'a Unit,
    card: &'a RemappedCard,
}

impl Aim for ByEntry<'_> {
    fn message(&self, vector: u32, _: u8) -> MsiMessage {
        handle::message(vector as u16)
    }

    fn prepare(&self, vector: u32, cpu: u8) {
        let entry = vector as u8;
        self.unit.remap(self.card, entry..entry + 1, |_| Some(fixed(cpu, handler(vector))));
    }

    fn turn(&self, _: &Guest, _: u8, vector: u32, cpu: u8) {
        let entry = vector as u8;
        if vector.is_multiple_of(2) {
            // The entry is gone for a moment, and what comes meanwhile waits.
            self.unit.remap(self.card, entry..entry + 1, |_| None);
        }
        self.prepare(vector, cpu);
    }
}

fn storm(guest: &Guest, card: &Card, aim: &dyn Aim) {
    let signals = signals();
    let seed = setting("STORM_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("STORM_SIGNALS={signals} STORM_SEED={seed}");
    let notes: Vec<Mutex<u64>> = (0..VECTORS).map(|_| Mutex::default()).collect();
    let left = AtomicU64::new(signals);
    let steps = AtomicU64::new(0);

    thread::scope(|scope| {
        let threads = [1, 2, 3].map(|thread| {
            let (notes, left, steps) = (&notes, &left, &steps);
            let rng = fastrand::Rng::with_seed(seed.wrapping_add(thread));
            scope.spawn(move || raise(rng, guest, card, notes, left, steps))
        });
        let _end = EndOfStorm(&left);
        let mut driver = Driver::new(guest, card, aim, &notes, fastrand::Rng::with_seed(seed));
        while !threads.iter().all(|thread| thread.is_finished()) {
            driver.step();
            steps.fetch_add(1, Ordering::Relaxed);
        }
        println!("{} steps of the driver", steps.load(Ordering::Relaxed));
        driver.finish();
    });

    assert_eq!(guest.read(0, card.pba(), 8), 0, "nothing is pending any more");
}

/// Lets the device's threads end when the driver does, also when that has failed.
struct EndOfStorm<'a>(&'a AtomicU64);

impl Drop for EndOfStorm<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The device: notes how often it has raised a vector, and raises it, in short bursts. One burst goes into each of
/// the driver's steps, or the guest would do nothing but take interrupts.
fn raise(
    mut rng: fastrand::Rng,
    guest: &Guest,
    card: &Card,
    notes: &[Mutex<u64>],
    left: &AtomicU64,
    steps: &AtomicU64,
) {
    let one_less = |left: u64| left.checked_sub(1);
    loop {
        let step = steps.load(Ordering::Relaxed);
        for _ in 0..rng.u32(1..=20) {
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
                return;
            }
            let vector = rng.u32(0..VECTORS);
            {
                let mut note = notes[vector as usize].lock().unwrap();
                *note += 1;
                guest.note(handler(vector), *note);
            }
            card.device.raise(vector);
        }
        // It ends with the driver, however that ends.
        while step == steps.load(Ordering::Relaxed) && left.load(Ordering::Relaxed) > 0 {
            thread::sleep(Duration::from_micros(20));
        }
    }
}

/// What the driver has last told the device of one vector.
#[derive(Clone, Copy)]
struct Told {
    cpu: u8,
    masked: bool,
}

/// What a driver does to one vector.
enum Step {
    Write(Vec<Operation>),
    Turn,
}

/// A guest driver out of its mind, that knows at any time which handlers must be silent.
struct Driver<'a> {
    guest: &'a Guest,
    card: &'a Card,
    aim: &'a dyn Aim,
    notes: &'a [Mutex<u64>],
    rng: fastrand::Rng,
    told: Vec<Told>,
    /// The function as a whole may send interrupts.
    control: u16,
    /// For each vector and CPU: how many interrupts there were when it last had to fall silent.
    silent: Vec<[Option<u64>; CPUS as usize]>,
}

impl<'a> Driver<'a> {
    fn new(
        guest: &'a Guest,
        card: &'a Card,
        aim: &'a dyn Aim,
        notes: &'a [Mutex<u64>],
        rng: fastrand::Rng,
    ) -> Self {
        let told = (0..VECTORS).map(|vector| Told { cpu: vector as u8 % CPUS, masked: false }).collect();
        let silent = vec![[Some(0); CPUS as usize]; VECTORS as usize];
        let requests: Vec<_> = (0..VECTORS)
            .flat_map(|vector| card.request(vector, aim.message(vector, vector as u8 % CPUS)))
            .collect();
        (0..VECTORS).for_each(|vector| aim.prepare(vector, vector as u8 % CPUS));
        let mut driver = Self { guest, card, aim, notes, rng, told, control: ENABLE, silent };
        driver.expect(0..VECTORS);
        guest.perform(0, &requests);
        guest.perform(0, &[card.control(ENABLE)]);
        driver
    }

    /// A random operation of a driver, on a random CPU.
    fn step(&mut self) {
        let vector = self.rng.u32(0..VECTORS);
        let by = self.rng.u8(0..CPUS);
        let mut told = self.told[vector as usize];
        let step = match self.rng.u32(0..100) {
            0..30 => {
                told.masked = true;
                Step::Write(vec![self.card.mask(vector)])
            }
            30..60 => {
                told.masked = false;
                Step::Write(vec![self.card.unmask(vector)])
            }
            60..80 => {
                told.cpu = self.rng.u8(0..CPUS);
                Step::Turn
            }
            80..94 => {
                told.masked = false;
                let mut operations = self.card.release(vector).to_vec();
                operations.extend(self.card.request(vector, self.aim.message(vector, told.cpu)));
                Step::Write(operations)
            }
            step => return self.step_function(step, by),
        };
        self.told[vector as usize] = told;
        self.check(vector..vector + 1);
        self.expect(vector..vector + 1);
        match step {
            Step::Write(operations) => drop(self.guest.perform(by, &operations)),
            Step::Turn => self.aim.turn(self.guest, by, vector, told.cpu),
        }
        self.fall_silent(vector..vector + 1);
        self.audit(vector..vector + 1);
    }

    /// The same for the function as a whole.
    fn step_function(&mut self, step: u32, by: u8) {
        self.control = match step {
            94 => 0,
            95 | 96 => ENABLE | FUNCTION_MASK,
            _ => ENABLE,
        };
        self.check(0..VECTORS);
        self.expect(0..VECTORS);
        self.guest.perform(by, &[self.card.control(self.control)]);
        self.fall_silent(0..VECTORS);
        self.audit(0..VECTORS);
    }

    /// Unmasks every vector at the end.
    fn finish(&mut self) {
        self.check(0..VECTORS);
        let unmask: Vec<_> = (0..VECTORS).map(|vector| self.card.unmask(vector)).collect();
        self.guest.perform(0, &unmask);
        self.guest.perform(0, &[self.card.control(ENABLE)]);
        self.told.iter_mut().for_each(|told| told.masked = false);
        self.control = ENABLE;
        self.audit(0..VECTORS);
    }

    /// What may fire has delivered all that its device has raised; meanwhile that raises nothing.
    fn audit(&self, vectors: std::ops::Range<u32>) {
        for vector in vectors.filter(|vector| (0..CPUS).any(|cpu| self.may_fire(*vector, cpu))) {
            let note = self.notes[vector as usize].lock().unwrap();
            let seen = || self.guest.seen(handler(vector));
            let cpu = self.told[vector as usize].cpu;
            let what = || {
                let (seen, failed_steps) = (seen(), self.card.msix.failed_steps());
                let counts =
                    format!("interrupt {note} of vector {vector}: {seen} seen, {failed_steps} failed_steps");
                eprintln!("lost: {counts}");
                // Reading its local APIC wakes a CPU.
                let local_apics: Vec<_> = (0..CPUS).map(|cpu| self.guest.local_apic(cpu)).collect();
                let after = self.guest.seen(handler(vector));
                let report = self.card.msix.report();
                let state = report.vectors.into_iter().find(|report| report.vector.0 == vector);
                let local_apics = local_apics.join(", ");
                format!("{counts}, {after} once every CPU was woken; for CPU {cpu}: {state:?}; {local_apics}")
            };
            eventually(|| seen() == *note, what);
        }
    }

    fn may_fire(&self, vector: u32, cpu: u8) -> bool {
        let told = self.told[vector as usize];
        self.control == ENABLE && !told.masked && told.cpu == cpu
    }

    /// Checks that no masked vector has delivered an interrupt.
    fn check(&self, vectors: std::ops::Range<u32>) {
        for (vector, cpu) in vectors.flat_map(|vector| (0..CPUS).map(move |cpu| (vector, cpu))) {
            if let Some(count) = self.silent[vector as usize][usize::from(cpu)] {
                let now = self.guest.interrupts(cpu, handler(vector));
                assert_eq!(now, count, "interrupts of vector {vector} on CPU {cpu}, masked or moved away");
            }
        }
    }

    /// Called before a write: the vectors that the write unmasks may deliver at once.
    fn expect(&mut self, vectors: std::ops::Range<u32>) {
        for (vector, cpu) in vectors.flat_map(|vector| (0..CPUS).map(move |cpu| (vector, cpu))) {
            if self.may_fire(vector, cpu) {
                self.silent[vector as usize][usize::from(cpu)] = None;
            }
        }
    }

    /// Called after a write: the vectors that the write masks have no interrupt under way but those that the CPU can take now.
    fn fall_silent(&mut self, vectors: std::ops::Range<u32>) {
        let newly = vectors
            .flat_map(|vector| (0..CPUS).map(move |cpu| (vector, cpu)))
            .filter(|(vector, cpu)| {
                self.silent[*vector as usize][usize::from(*cpu)].is_none() && !self.may_fire(*vector, *cpu)
            })
            .collect::<Vec<_>>();
        (0..CPUS)
            .filter(|cpu| newly.iter().any(|(_, own)| own == cpu))
            .for_each(|cpu| self.guest.settle(cpu));
        for (vector, cpu) in newly {
            let count = self.guest.interrupts(cpu, handler(vector));
            self.silent[vector as usize][usize::from(cpu)] = Some(count);
        }
    }
}
