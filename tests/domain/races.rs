//! Several vCPUs write one table and Message Control at the same time. The table has no lock. The last vCPU must see what all vCPUs
//! have written, and bring the host to that state.

use std::hint;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use vm_msi::apic::ApicMessage;
use vm_msi::domain::State;
use vm_msi::{Delivery, Store, Vector};

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture};

const VCPUS: usize = 2;
/// The entries that the vCPUs write: two neighbours in one cache line, and the last, which no access has written before.
const ENTRIES: [u16; 3] = [0, 1, 69];

/// A barrier that releases its threads within a few nanoseconds.
#[derive(Default)]
struct Line(AtomicUsize);

impl Line {
    /// Waits until every thread has come `times` times.
    fn wait(&self, times: usize) {
        self.0.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0u32;
        while self.0.load(Ordering::SeqCst) < times * VCPUS {
            spins += 1;
            if spins.is_multiple_of(1 << 14) { thread::yield_now() } else { hint::spin_loop() }
        }
    }
}

/// Releases the other threads if this one panics.
struct Leaving<'line>(&'line Line);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(usize::MAX / 4, Ordering::SeqCst);
    }
}

/// One access of a driver, mostly to a part of an entry.
fn access(fixture: &Fixture, random: &mut fastrand::Rng) {
    let entry = ENTRIES[random.usize(..ENTRIES.len())];
    match random.u8(..16) {
        0..4 => fixture.set_register(entry, 0, 0xfee0_0000 | random.u32(..2) << 12),
        4..8 => fixture.set_register(entry, 2, 0x41 + random.u32(..2)),
        8..14 => fixture.set_mask(entry, random.u32(..2)),
        14 => fixture.function.write_table(u64::from(entry) * 16 + 8, &[0; 8]),
        _ => fixture.set_control(if random.bool() { ENABLE } else { ENABLE | FUNCTION_MASK }),
    }
}

/// Checks that the host has each entry as the table has it.
fn check(fixture: &Fixture, random: &impl std::fmt::Debug) {
    let report = fixture.function.report();
    for vector in ENTRIES.map(|entry| Vector(entry.into())) {
        let host = report.vectors.iter().find(|other| other.vector == vector);
        let (state, message) = host.map_or((State::Idle, None), |host| (host.state, host.message));
        match fixture.function.look(|registers| registers.delivery(vector)) {
            Delivery::Live(wanted) if ApicMessage::try_from(wanted).is_ok() => {
                assert_eq!((state, message), (State::Live, Some(wanted)), "vector {vector}, {random:?}");
            }
            Delivery::Live(_) | Delivery::Held | Delivery::Off => {
                assert_ne!(state, State::Live, "vector {vector}, {random:?}");
            }
        }
    }
}

#[test]
fn the_host_follows_every_write_that_vcpus_make_at_the_same_time() {
    for seed in 0..20 {
        let fixture = Fixture::after_reset();
        let line = Line::default();
        // Also the first accesses, of which one turns MSI-X on.
        thread::scope(|scope| {
            for vcpu in 0..VCPUS {
                let (fixture, line) = (&fixture, &line);
                scope.spawn(move || {
                    let _leaving = Leaving(line);
                    let mut random = fastrand::Rng::with_seed(seed * VCPUS as u64 + vcpu as u64);
                    for round in 0..10_000 {
                        line.wait(2 * round + 1);
                        if round == 0 && vcpu == 0 {
                            fixture.set_control(ENABLE);
                        }
                        (0..random.u8(1..4)).for_each(|_| access(fixture, &mut random));
                        line.wait(2 * round + 2);
                        if vcpu == 0 {
                            check(fixture, &(seed, round));
                        }
                    }
                });
            }
        });
    }
}
