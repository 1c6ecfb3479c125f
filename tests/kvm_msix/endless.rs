//! A device that signals all of its vectors without end. Vectors that are masked, or delivered by the kernel, do not wake the VMM. Where
//! the VMM relays them, another function's interrupt waits for two calls' worth of them at most.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::refusal::Refusal;
use vm_msi::router::{Route, RouterError, Signalled};
use vm_msi::{Interrupt, MsiMessage, Router, Target};
use vmm_sys_util::eventfd::EventFd;

use crate::bare_metal::{
    Card, Device, ENABLE, EventThread, FUNCTION_MASK, Guest, Machine, eventually, fixed, turn_of_thousands,
};

/// Vectors of the device that fires without end.
const VECTORS: u32 = 2048;
/// CPU 0 takes the interrupts of the storm, and CPU 1 the other device's.
const CPUS: u8 = 2;
const INTERRUPTS: Range<u8> = 0x30..0xb0;
const OTHER: u8 = 0xe0;
/// What one call of `deliver_relayed` relays at most.
const A_CALL: u64 = 64;

fn of_the_storm(vector: u32) -> MsiMessage {
    fixed(0, INTERRUPTS.start + vector as u8 % INTERRUPTS.len() as u8)
}

/// A router without routes: each interrupt is relayed, and counted.
struct Relaying {
    router: Arc<KvmRouter>,
    /// How many interrupts of the storm were signalled.
    storm: AtomicU64,
    /// How many of them there were when the other device's last one was signalled.
    at_other: AtomicU64,
}

impl Relaying {
    fn new(router: Arc<KvmRouter>) -> Arc<Self> {
        Arc::new(Self { router, storm: AtomicU64::new(0), at_other: AtomicU64::new(0) })
    }

    fn storm(&self) -> u64 {
        self.storm.load(Ordering::Relaxed)
    }
}

impl Router for Relaying {
    fn translate(&self, message: MsiMessage) -> Result<Target, Refusal> {
        self.router.translate(message)
    }

    fn get_or_publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        routes
            .extend(messages.iter().map(|message| Err(RouterError::NoRoom { message: *message, routes: 0 })));
    }

    fn attach(&self, _: &EventFd, _: &Route) -> Result<(), RouterError> {
        unreachable!("there are no routes")
    }

    fn detach(&self, _: &EventFd, _: &Route) -> Result<(), RouterError> {
        unreachable!("there are no routes")
    }

    fn put(&self, _: Route) {
        unreachable!("there are no routes")
    }

    fn signal(&self, interrupt: Interrupt) -> Result<Signalled, RouterError> {
        match interrupt.message() == fixed(1, OTHER) {
            true => self.at_other.store(self.storm(), Ordering::Relaxed),
            false => drop(self.storm.fetch_add(1, Ordering::Relaxed)),
        }
        self.router.signal(interrupt)
    }
}

/// A thread that signals all of a device's vectors again and again. It ends when this is dropped.
struct Storm {
    ends: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Storm {
    fn start(device: &Arc<Device>) -> Self {
        let (ends, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (device, ended, counted) = (device.clone(), ends.clone(), rounds.clone());
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                (0..VECTORS).for_each(|vector| device.raise(vector));
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { ends, rounds, thread: Some(thread) }
    }

    /// Returns when each vector was signalled so many times more.
    fn wait(&self, times: u64) {
        let end = self.rounds.load(Ordering::Relaxed) + times;
        while self.rounds.load(Ordering::Relaxed) < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the device's thread failed");
    }
}

/// Signals each vector three times or more, which must not wake the thread.
fn assert_no_event(events: &EventThread, storming: &Card) {
    events.wait_until_idle();
    let before = events.events();
    Storm::start(&storming.device).wait(3);
    assert_eq!(events.events(), before, "events");
}

fn enable(guest: &Guest, card: &Card, message: impl Fn(u32) -> MsiMessage, vectors: Range<u32>) {
    guest.perform(0, &[card.control(ENABLE)]);
    let requests: Vec<_> = vectors.flat_map(|vector| card.request(vector, message(vector))).collect();
    guest.perform(0, &requests);
}

#[test]
fn an_interrupt_waits_for_two_calls_of_a_relayed_storm_at_most() {
    let _turn = turn_of_thousands();
    let mut machine = Machine::new(Irqchip::Kernel, CPUS);
    let relaying = Relaying::new(machine.router());
    let storming = machine.plug_behind(relaying.clone(), VECTORS as u16);
    let other = machine.plug_behind(relaying.clone(), 1);
    let guest = machine.start();
    let _events = EventThread::start([storming.msix.clone(), other.msix.clone()]);
    enable(&guest, &storming, of_the_storm, 0..VECTORS);
    enable(&guest, &other, |_| fixed(1, OTHER), 0..1);

    let storm = Storm::start(&storming.device);
    storm.wait(1);
    for interrupts in 1..=100 {
        other.device.raise(0);
        // Read after the interrupt is due, so the number is never too large.
        let due = relaying.storm();
        guest.wait_for(1, OTHER, interrupts);
        let before = relaying.at_other.load(Ordering::Relaxed).saturating_sub(due);
        assert!(before <= 2 * A_CALL, "{before} interrupts of the storm came before one that was due");
    }
    drop(storm);
    assert!(relaying.storm() > 100 * A_CALL, "there was no storm");
}

#[test]
fn a_storm_of_masked_or_irqfd_vectors_does_not_wake_the_vmm() {
    let _turn = turn_of_thousands();
    for relays in [false, true] {
        let mut machine = Machine::new(Irqchip::Kernel, CPUS);
        let relaying = Relaying::new(machine.router());
        let storming = match relays {
            false => machine.plug(VECTORS as u16),
            true => machine.plug_behind(relaying.clone(), VECTORS as u16),
        };
        let guest = machine.start();
        let events = EventThread::start([storming.msix.clone()]);
        enable(&guest, &storming, of_the_storm, 0..VECTORS);
        if relays {
            let _storm = Storm::start(&storming.device);
            eventually(|| relaying.storm() > 0, || "an interrupt that is relayed".to_owned());
        } else {
            assert_no_event(&events, &storming);
        }
        guest.perform(0, &[storming.control(ENABLE | FUNCTION_MASK)]);
        guest.settle(0);
        let before: Vec<_> = INTERRUPTS.map(|interrupt| guest.interrupts(0, interrupt)).collect();
        assert_no_event(&events, &storming);
        guest.settle(0);
        assert!(
            INTERRUPTS.zip(&before).all(|(interrupt, before)| guest.interrupts(0, interrupt) == *before),
            "masked"
        );

        guest.perform(0, &[storming.control(ENABLE)]);
        for (interrupt, before) in INTERRUPTS.zip(before) {
            eventually(|| guest.interrupts(0, interrupt) > before, || format!("interrupt {interrupt:#x}"));
        }
    }
}
