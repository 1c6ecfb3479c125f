//! The timer: a deadline for each slot, and one timerfd for all of them.
//!
//! The timerfd is set to the earliest deadline. When it expires, the event loop calls [`Timer::on_timer`], which
//! triggers the due slots. All times are the host's CLOCK_MONOTONIC. A driver can read the device's clock, because
//! the guest's clock may run at another rate: kvm-clock follows the host's raw clock.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use vm_msi::Vector;
use vmm_sys_util::timerfd::TimerFd;

use super::deadlines::Deadlines;
use super::device::{Model, ModelContext};
use super::interrupts::Interrupts;
use super::registers::{
    ARM, ARMED, CLOCK_HIGH, CLOCK_LOW, DISARM, Halves, NANOSECONDS_HIGH, NANOSECONDS_LOW,
};

/// Maximum number of deadlines handled in one call.
const AT_ONCE: usize = 256;

/// The model.
pub struct Timer {
    deadlines: Deadlines,
    nanoseconds: Halves,
    /// The time at which the device's clock was 0.
    start: Instant,
    clock: TimerFd,
    /// The expiration of the timerfd.
    set: Option<Instant>,
}

impl Timer {
    /// A timer without armed slots.
    ///
    /// # Errors
    /// The host refuses a timerfd.
    pub fn new() -> io::Result<Self> {
        let (clock, start) = (TimerFd::new()?, Instant::now());
        Ok(Self { deadlines: Deadlines::default(), nanoseconds: Halves::default(), start, clock, set: None })
    }

    /// The device's clock in nanoseconds. It saturates after 584 years.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn arm(&mut self, slot: Vector) {
        let now = Instant::now();
        // A deadline beyond the range of `Instant` never expires.
        if let Some(at) = now.checked_add(Duration::from_nanos(self.nanoseconds.whole())) {
            self.deadlines.arm(slot, at);
        }
        self.set_clock(now);
    }

    /// Sets the timerfd to the earliest deadline, if it has changed.
    fn set_clock(&mut self, now: Instant) {
        let next = self.deadlines.next();
        if next == self.set && next.is_some() {
            return;
        }
        let set = match next {
            // A timerfd that is set to 0 is disarmed.
            Some(at) => {
                self.clock.reset(at.saturating_duration_since(now).max(Duration::from_nanos(1)), None)
            }
            None => self.clock.clear(),
        };
        // If the host refuses, the event loop polls.
        self.set = next.filter(|_| set.is_ok());
    }
}

impl Model for Timer {
    const IDENTIFICATION: [u8; 4] = *b"IMST";
    const NAME: &'static str = "timer";

    fn read(&self, register: u64, _interrupts: &Interrupts) -> u32 {
        match register {
            NANOSECONDS_LOW => self.nanoseconds.low,
            NANOSECONDS_HIGH => self.nanoseconds.high,
            ARMED => self.deadlines.armed(),
            CLOCK_LOW => self.now() as u32,
            CLOCK_HIGH => (self.now() >> 32) as u32,
            _ => 0,
        }
    }

    fn write(&mut self, register: u64, value: u32, cx: &mut ModelContext<'_>) {
        let is_there = value < cx.interrupts().slot_count();
        match register {
            NANOSECONDS_LOW => self.nanoseconds.low = value,
            NANOSECONDS_HIGH => self.nanoseconds.high = value,
            ARM if is_there => self.arm(Vector(value)),
            DISARM if is_there => {
                self.deadlines.disarm(Vector(value));
                self.set_clock(Instant::now());
            }
            ARM | DISARM => cx.refuse(),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.deadlines = Deadlines::default();
        self.nanoseconds = Halves::default();
        self.set_clock(Instant::now());
    }

    fn timer_fd(&self) -> Option<RawFd> {
        Some(self.clock.as_raw_fd())
    }

    /// Triggers some of the due slots, and sets the timerfd for the next one.
    fn on_timer(&mut self, now: Instant, cx: &mut ModelContext<'_>) {
        for _ in 0..AT_ONCE {
            let Some(slot) = self.deadlines.take_due(now) else { break };
            cx.trigger_slot(slot);
        }
        // Needed even without a change: an expired timerfd stays readable until it is set.
        self.set = None;
        self.set_clock(now);
    }

    fn report(&self) -> Map<String, Value> {
        [("armed".to_owned(), self.deadlines.armed().into())].into_iter().collect()
    }
}
