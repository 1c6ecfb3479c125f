//! The timer: each slot fires once, and never before its deadline.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use event_manager::{EventManager, SubscriberOps};

use super::{MASK, Machine, message};
use crate::ims::DeviceEvents;
use crate::ims::timer::Timer;

const ARM: u64 = 0x088;
const DISARM: u64 = 0x08c;
const ARMED: u64 = 0x090;
const CLOCK: u64 = 0x094;

const SECOND: u64 = 1_000_000_000;

impl Machine<Timer> {
    fn arm(&self, slot: u32, nanoseconds: u64) {
        self.write(0x080, nanoseconds as u32);
        self.write(0x084, (nanoseconds >> 32) as u32);
        self.write(ARM, slot);
    }

    fn clock(&self) -> u64 {
        let (high, low) = (self.read(CLOCK + 4), self.read(CLOCK));
        if self.read(CLOCK + 4) == high { u64::from(high) << 32 | u64::from(low) } else { self.clock() }
    }

    /// Handles the timer as if this time had passed.
    fn after(&self, seconds: u64) {
        self.device.on_timer(Instant::now() + Duration::from_secs(seconds));
    }
}

#[test]
fn each_slot_is_triggered_once_when_its_time_is_over() {
    let machine = Machine::timer(4);
    (0..4).for_each(|slot| machine.set_up(slot, 0));
    machine.arm(2, 300 * SECOND);
    machine.arm(0, 100 * SECOND);
    machine.arm(3, 200 * SECOND);
    assert_eq!(machine.read(ARMED), 3);
    machine.after(99);
    assert_eq!(machine.interrupts(), []);
    machine.after(250);
    assert_eq!((machine.interrupts(), machine.read(ARMED)), (vec![message(0), message(3)], 1));
    machine.after(1000);
    assert_eq!((machine.interrupts(), machine.read(ARMED)), (vec![message(2)], 0));
    machine.after(1000);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![], [3, 0, 0]));
}

#[test]
fn a_slot_that_is_armed_again_has_the_new_deadline_and_a_disarmed_one_none() {
    let machine = Machine::timer(4);
    (0..4).for_each(|slot| machine.set_up(slot, 0));
    machine.arm(0, 10 * SECOND);
    machine.arm(0, 100 * SECOND);
    machine.arm(1, 10 * SECOND);
    machine.write(DISARM, 1);
    machine.write(DISARM, 2);
    machine.after(50);
    assert_eq!((machine.interrupts(), machine.read(ARMED)), (vec![], 1));
    machine.after(101);
    assert_eq!(machine.interrupts(), [message(0)]);
}

#[test]
fn deadlines_of_slots_that_are_masked_wait_and_of_those_that_are_off_are_dropped() {
    let machine = Machine::timer(4);
    machine.set_up(0, MASK);
    machine.set_up(1, 0);
    machine.arm(0, 0);
    machine.arm(1, 0);
    machine.free(1);
    machine.after(1);
    assert_eq!((machine.interrupts(), machine.counters()), (vec![], [2, 1, 0]));
    machine.set_control(0, 0);
    machine.set_up(1, 0);
    assert_eq!(machine.interrupts(), [message(0)]);
}

#[test]
fn slots_that_do_not_exist_are_refused() {
    let machine = Machine::timer(4);
    machine.write(ARM, 4);
    machine.write(DISARM, u32::MAX);
    assert_eq!((machine.read(ARMED), machine.counters()), (0, [0, 0, 2]));
}

#[test]
fn a_reset_disarms_all() {
    let machine = Machine::timer(4);
    machine.arm(3, SECOND);
    machine.write(0x014, 1);
    (0..4).for_each(|slot| machine.set_up(slot, 0));
    machine.after(2);
    let registers = [0x080, 0x084, ARMED].map(|register| machine.read(register));
    assert_eq!((machine.interrupts(), registers, machine.counters()), (vec![], [0; 3], [0; 3]));
}

#[test]
fn no_length_of_time_is_too_long_or_too_short() {
    let machine = Machine::timer(4);
    (0..4).for_each(|slot| machine.set_up(slot, 0));
    machine.arm(0, u64::MAX);
    machine.arm(1, 0);
    machine.after(100 * 365 * 86_400);
    assert_eq!((machine.interrupts(), machine.read(ARMED)), (vec![message(1)], 1));
}

#[test]
fn the_event_loop_serves_some_deadlines_at_a_time_and_forgets_none() {
    let machine = Machine::timer(1000);
    (0..1000).for_each(|slot| machine.set_up(slot, 0));
    (0..1000).for_each(|slot| machine.arm(slot, 0));
    machine.after(0);
    let first = machine.interrupts().len();
    assert!((1..1000).contains(&first), "{first}");
    for _ in 0..10 {
        machine.after(0);
    }
    assert_eq!(first + machine.interrupts().len(), 1000);
}

#[test]
fn the_clock_of_deadlines_can_be_read_and_goes_on_through_a_reset() {
    let machine = Machine::timer(4);
    let start = Instant::now();
    let before = machine.clock();
    machine.write(0x014, 1);
    std::thread::sleep(Duration::from_millis(20));
    let passed = Duration::from_nanos(machine.clock() - before);
    assert!((Duration::from_millis(20)..=start.elapsed()).contains(&passed), "{passed:?}");
}

/// Uses the host's clock and a real event loop.
#[test]
fn deadlines_come_in_their_order_and_none_before_its_time() {
    let machine = Machine::timer(64);
    let events = DeviceEvents::new(vec![Arc::clone(&machine.device) as _]).unwrap();
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(Arc::new(Mutex::new(events)));
    (0..64).for_each(|slot| machine.set_up(slot, 0));
    let start = machine.clock();
    for slot in (0..64).rev() {
        machine.arm(slot, 20_000_000 + u64::from(slot) * 1_000_000);
    }
    let mut came = Vec::new();
    while came.len() < 64 {
        manager.run_with_timeout(1000).unwrap();
        let elapsed = Duration::from_nanos(machine.clock() - start);
        for slot in machine.interrupts().into_iter().map(|message| message.data - 0x20) {
            assert!(elapsed >= Duration::from_millis(20 + u64::from(slot)), "slot {slot} after {elapsed:?}");
            came.push(slot);
        }
        assert!(elapsed < Duration::from_secs(30), "{came:?}");
    }
    assert_eq!(came, (0..64).collect::<Vec<_>>());
    assert_eq!(machine.read(ARMED), 0);
}
