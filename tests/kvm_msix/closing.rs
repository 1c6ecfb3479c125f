//! Many vectors that are disabled in one access: the domain closes their eventfds together if it is their only owner.

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vm_msi::Interrupt;
use vm_msi::Router;
use vm_msi::kvm::Irqchip;
use vm_msi::router::{RouterError, Unclosed};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bare_metal::{ENABLE, IRQCHIPS, Machine, eventually, fixed};

const VECTORS: u32 = 64;

#[test]
fn msi_x_turned_off_while_its_vectors_are_raised_is_silent_at_once_and_loses_none() {
    for irqchip in IRQCHIPS {
        let (guest, card) = Machine::with_card(irqchip, 1, VECTORS as u16);
        let handler = |vector: u32| 0x30 + vector as u8;
        guest.perform(0, &[card.control(ENABLE)]);
        let requests: Vec<_> =
            (0..VECTORS).flat_map(|vector| card.request(vector, fixed(0, handler(vector)))).collect();
        guest.perform(0, &requests);
        let notes: Vec<Mutex<u64>> = (0..VECTORS).map(|_| Mutex::default()).collect();
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !ends.load(Ordering::Relaxed) {
                        for _ in 0..fastrand::u32(1..10) {
                            let vector = fastrand::u32(0..VECTORS);
                            let mut note = notes[vector as usize].lock().unwrap();
                            *note += 1;
                            guest.note(handler(vector), *note);
                            card.device.raise(vector);
                        }
                        // The guest's CPU gets a turn.
                        thread::sleep(Duration::from_micros(50));
                    }
                });
            }
            let _end = End(&ends);
            for _ in 0..20 {
                thread::sleep(Duration::from_micros(fastrand::u64(0..2000)));
                guest.perform(0, &[card.control(0)]);
                assert_eq!(card.device.bound(), 0);
                guest.settle(0);
                let count = guest.all_interrupts(0);
                thread::sleep(Duration::from_micros(200));
                guest.settle(0);
                assert_eq!(guest.all_interrupts(0), count, "off");
                guest.perform(0, &[card.control(ENABLE)]);
            }
        });
        for vector in 0..VECTORS {
            let note = *notes[vector as usize].lock().unwrap();
            let seen = || guest.seen(handler(vector));
            eventually(|| seen() == note, || format!("interrupt {note} of vector {vector}: {}", seen()));
        }
    }
}

/// Ends the threads, also if the test panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A backend must say whether it keeps duplicates of its eventfds, because the kernel ends an irqfd only with the last descriptor.
#[test]
fn an_eventfd_that_somebody_else_has_open_goes_on_delivering_after_it_was_closed() {
    let machine = Machine::new(Irqchip::Kernel, 1);
    let router = machine.router();
    let guest = machine.start();
    let messages = [0x41, 0x42, 0x43].map(|vector| Interrupt::new(fixed(0, vector)));
    let mut routes = Vec::new();
    router.get_or_publish(&messages, &mut routes);
    let mut others = Vec::new();
    let attached = routes.into_iter().zip([true, false, true]).map(|(route, is_shared)| {
        let (eventfd, route) = (EventFd::new(EFD_NONBLOCK).unwrap(), route.unwrap());
        router.attach(&eventfd, &route).unwrap();
        others.extend(is_shared.then(|| eventfd.try_clone().unwrap()));
        (eventfd, route)
    });
    let attached: Vec<_> = attached.collect();
    assert!(router.close(attached).is_empty());
    assert_eq!(router.counters().in_use, 0);
    others.iter().for_each(|eventfd| eventfd.write(1).unwrap());
    guest.wait_for(0, 0x41, 1);
    guest.settle(0);
    assert_eq!(guest.all_interrupts(0), 1, "the last of them was detached");
}

/// A refused barrier is reported. No route is changed until a detach has waited for the signals that may still be under way.
#[test]
fn eventfds_whose_end_the_kernel_refuses_to_wait_for_keep_their_routes_until_it_has_waited() {
    let machine = Machine::new(Irqchip::Kernel, 1);
    let router = machine.router();
    let guest = machine.start();
    let messages = [0x41, 0x42, 0x43, 0x44].map(|vector| Interrupt::new(fixed(0, vector)));
    let mut routes = Vec::new();
    router.get_or_publish(&messages, &mut routes);
    let mut attached = routes.into_iter().zip([true, true, false, true]).map(|(route, is_eventfd)| {
        let route = route.unwrap();
        // The kernel refuses KVM_IRQFD for what is no eventfd.
        let eventfd = if is_eventfd { EventFd::new(EFD_NONBLOCK).unwrap() } else { no_eventfd() };
        assert_eq!(router.attach(&eventfd, &route).is_ok(), is_eventfd);
        (eventfd, route)
    });
    let closing: Vec<_> = attached.by_ref().take(3).collect();
    let (other, of_other) = attached.next().unwrap();
    closing.iter().take(2).for_each(|(eventfd, _)| eventfd.write(1).unwrap());
    let unclosed = router.close(closing);
    let [Unclosed { index: 2, source: RouterError::Detach { .. }, .. }] = unclosed.as_slice() else {
        panic!("{unclosed:?}");
    };
    assert_eq!(router.counters().in_use, 4, "nobody has waited");
    guest.wait_for(0, 0x41, 1);
    guest.wait_for(0, 0x42, 1);

    router.detach(&other, &of_other).unwrap();
    assert_eq!(
        router.counters().in_use,
        2,
        "all but what is detached and not put back, and what was refused"
    );
}

fn no_eventfd() -> EventFd {
    let file = File::open("/dev/null").unwrap();
    // SAFETY: the descriptor is open, and nobody else's.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}
