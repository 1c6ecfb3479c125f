//! Maintenance: one eventfd tells the embedder that a function has work, and one call does the work.

use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use event_manager::{EventManager, SubscriberOps};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_msi::domain::State;
use vm_msi::events::MaintenanceSubscriber;
use vm_msi::maintenance::Requests;
use vm_msi::{Maintenance, MsiMessage};

use crate::fixture::{ENABLE, Fixture, message};
use crate::host::is_readable;

/// The delay before a refused step is tried again.
const RETRY: Duration = Duration::from_millis(100);

fn request(fixture: &Fixture, vector: u16) {
    fixture.set_message(vector, message(vector));
    fixture.set_mask(vector, 0);
}

fn maintained(requests: Requests) -> (Fixture, Maintenance) {
    let fixture = Fixture::using([]);
    let maintenance = Maintenance::new(fixture.function.clone(), requests).unwrap();
    (fixture, maintenance)
}

/// Runs the maintenance each time that its eventfd is readable, until `ends`, as an embedder's thread does.
fn run_until(maintenance: &Maintenance, ends: impl Fn() -> bool) -> u32 {
    let (begin, limit) = (Instant::now(), Duration::from_secs(20));
    let mut runs = 0;
    while !ends() {
        assert!(begin.elapsed() < limit, "nothing has woken the thread");
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(maintenance, PollFlags::IN)], Some(&timeout)).unwrap();
        maintenance.run();
        runs += 1;
    }
    runs
}

#[test]
fn a_function_without_work_does_not_signal_its_maintenance() {
    let (fixture, maintenance) = maintained(Requests::InAccess);
    assert!(!is_readable(&maintenance));
    request(&fixture, 3);
    fixture.set_mask(3, 1);
    fixture.set_mask(3, 0);
    assert_eq!(fixture.raise(3), [message(3)]);
    fixture.set_control(0);
    assert!(!is_readable(&maintenance));
}

#[test]
fn a_refused_step_is_tried_again_without_another_access() {
    let (fixture, maintenance) = maintained(Requests::InAccess);
    fixture.set_message(3, message(3));
    fixture.refuse(1);
    fixture.set_mask(3, 0);
    assert_eq!(fixture.raise(3), []);
    assert!(is_readable(&maintenance));
    // It has seen the refusal, and waits.
    maintenance.run();
    assert!(!is_readable(&maintenance));
    assert_eq!(fixture.function.failed_steps(), 1);
    run_until(&maintenance, || fixture.function.failed_steps() == 0);
    assert_eq!(fixture.delivered(), [message(3)]);
    assert!(!is_readable(&maintenance));
}

#[test]
fn a_step_that_the_host_keeps_refusing_is_tried_ten_times_a_second() {
    let (fixture, _maintenance) = maintained(Requests::InAccess);
    let failures = || fixture.function.report().counters.host_failures;
    fixture.set_message(3, message(3));
    fixture.refuse(u32::MAX);
    fixture.set_mask(3, 0);
    let each_try = failures();
    assert!(each_try > 0);
    let begin = Instant::now();
    assert_eq!(fixture.function.maintain(begin), Some(RETRY), "first seen");
    let half = begin + RETRY / 2;
    assert_eq!(fixture.function.maintain(half), Some(RETRY / 2));
    assert_eq!(failures(), each_try, "too early");
    for tries in 1..=3 {
        assert_eq!(fixture.function.maintain(begin + RETRY * tries), Some(RETRY));
        assert_eq!(failures(), each_try * (1 + u64::from(tries)));
    }
    fixture.refuse(0);
    assert_eq!(fixture.function.maintain(begin + RETRY * 4), None);
    assert_eq!(fixture.raise(3), [message(3)]);
}

#[test]
fn a_window_that_the_host_refuses_to_open_is_tried_again() {
    let fixture = Fixture::after_reset();
    let maintenance = Maintenance::new(fixture.function.clone(), Requests::InAccess).unwrap();
    request(&fixture, 3);
    fixture.refuse(1);
    fixture.set_control(ENABLE);
    run_until(&maintenance, || fixture.function.failed_steps() == 0);
    assert_eq!(fixture.raise(3), [message(3)]);
}

/// Vectors that the host refused in one access come up in the next access, whichever vector the next access is to.
#[test]
fn an_access_that_opens_a_refused_window_brings_up_the_vectors_of_earlier_accesses() {
    let fixture = Fixture::after_reset();
    request(&fixture, 3);
    fixture.refuse(1);
    fixture.set_control(ENABLE);
    assert_eq!((fixture.bound(), fixture.function.failed_steps()), (0, 1));
    request(&fixture, 5);
    assert_eq!(fixture.raise(5), [message(5)]);
    assert_eq!(fixture.raise(3), [message(3)]);
}

#[test]
fn what_was_refused_before_there_was_maintenance_is_tried_again() {
    let fixture = Fixture::using([]);
    fixture.set_message(3, message(3));
    fixture.refuse(1);
    fixture.set_mask(3, 0);
    let maintenance = Maintenance::new(fixture.function.clone(), Requests::InAccess).unwrap();
    run_until(&maintenance, || fixture.function.failed_steps() == 0);
    assert_eq!(fixture.raise(3), [message(3)]);
}

#[test]
fn deferred_requests_are_made_by_maintenance() {
    let (fixture, maintenance) = maintained(Requests::Deferred);
    (0..40).for_each(|vector| request(&fixture, vector));
    assert_eq!((fixture.bound(), fixture.raise(39)), (0, vec![]));
    assert_eq!(run_until(&maintenance, || fixture.function.deferred() == 0), 1);
    assert_eq!((fixture.bound(), fixture.delivered()), (40, vec![message(39)]));
    assert!(!is_readable(&maintenance));
}

#[test]
fn a_deferred_request_that_the_host_refuses_is_made_again() {
    let (fixture, maintenance) = maintained(Requests::Deferred);
    request(&fixture, 3);
    fixture.refuse(1);
    run_until(&maintenance, || (fixture.bound(), fixture.function.failed_steps()) == (1, 0));
    assert_eq!(fixture.raise(3), [message(3)]);
}

#[test]
fn requests_are_made_in_the_access_where_the_embedder_says_so() {
    let (fixture, maintenance) = maintained(Requests::InAccess);
    request(&fixture, 3);
    assert_eq!((fixture.bound(), is_readable(&maintenance)), (1, false));
}

#[test]
fn vectors_without_a_route_are_delivered_by_maintenance() {
    let (fixture, maintenance) = maintained(Requests::InAccess);
    fixture.router.set_capacity(1);
    [3, 4].into_iter().for_each(|vector| request(&fixture, vector));
    assert_eq!(fixture.function.report().vectors[1].state, State::Relayed);
    maintenance.run();
    assert_eq!(fixture.raise(4), []);
    assert!(is_readable(&maintenance));
    maintenance.run();
    assert_eq!(fixture.delivered(), [message(4)]);
}

#[test]
fn a_freed_vector_is_released_when_its_release_delay_is_over() {
    let (fixture, maintenance) = maintained(Requests::InAccess);
    fixture.function.set_release_delay(Duration::from_millis(50));
    request(&fixture, 3);
    fixture.set_mask(3, 1);
    fixture.set_message(3, MsiMessage { address: 0, data: 0 });
    assert_eq!((fixture.bound(), fixture.function.expiring()), (1, 1));
    run_until(&maintenance, || fixture.bound() == 0);
    assert!(!is_readable(&maintenance));
}

#[test]
fn an_event_manager_runs_it() {
    let (fixture, maintenance) = maintained(Requests::Deferred);
    let mut events = EventManager::<Arc<MaintenanceSubscriber>>::new().unwrap();
    events.add_subscriber(Arc::new(MaintenanceSubscriber::new(Arc::new(maintenance))));
    request(&fixture, 3);
    fixture.refuse(1);
    let begin = Instant::now();
    while (fixture.bound(), fixture.function.failed_steps()) != (1, 0)
        && begin.elapsed() < Duration::from_secs(20)
    {
        events.run_with_timeout(1000).unwrap();
    }
    assert_eq!(fixture.raise(3), [message(3)]);
}

#[test]
fn two_maintenances_of_one_function_do_not_disturb_each_other() {
    let (fixture, first) = maintained(Requests::InAccess);
    let second = Maintenance::new(fixture.function.clone(), Requests::InAccess).unwrap();
    fixture.set_message(3, message(3));
    fixture.refuse(1);
    fixture.set_mask(3, 0);
    first.run();
    second.run();
    run_until(&second, || fixture.function.failed_steps() == 0);
    assert_eq!(fixture.raise(3), [message(3)]);
}

#[test]
fn a_function_that_is_refused_and_never_maintained_says_so_when_it_ends() {
    let ended = |maintain: fn(&Fixture)| {
        logged(|| {
            let fixture = Fixture::using([]);
            fixture.refuse(1);
            request(&fixture, 3);
            maintain(&fixture);
        })
    };
    let forgotten = ended(|_| ());
    assert!(matches!(&forgotten[..], [line] if line.contains("nothing calls maintain")), "{forgotten:?}");
    assert_eq!(ended(|fixture| fixture.function.retry()), [""; 0]);
    assert_eq!(
        ended(|fixture| {
            fixture.function.maintain(Instant::now());
        }),
        [""; 0]
    );
    let with_object =
        |fixture: &Fixture| drop(Maintenance::new(fixture.function.clone(), Requests::InAccess));
    assert_eq!(ended(with_object), [""; 0]);
    assert_eq!(logged(|| drop(Fixture::using([1, 2, 3]))), [""; 0], "nothing was refused");
}

#[test]
fn a_function_that_is_refused_much_and_never_maintained_says_so_once_meanwhile() {
    let fixture = Fixture::using([]);
    fixture.set_message(3, message(3));
    let lines = logged(|| {
        for _ in 0..200 {
            fixture.refuse(u32::MAX);
            fixture.set_mask(3, 0);
            fixture.set_mask(3, 1);
        }
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
}

/// The lines that this thread logs during `work`.
fn logged(work: impl FnOnce()) -> Vec<String> {
    struct Lines(Mutex<Vec<(thread::ThreadId, String)>>);

    impl log::Log for Lines {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            self.0.lock().unwrap().push((thread::current().id(), record.args().to_string()));
        }

        fn flush(&self) {}
    }

    static LINES: Lines = Lines(Mutex::new(Vec::new()));
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LINES).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    let own = thread::current().id();
    let mine = |lines: &mut Vec<(thread::ThreadId, String)>| -> Vec<String> {
        let (mine, others) = lines.drain(..).partition(|(thread, _)| *thread == own);
        *lines = others;
        mine.into_iter().map(|(_, line)| line).collect()
    };
    mine(&mut LINES.0.lock().unwrap());
    work();
    mine(&mut LINES.0.lock().unwrap())
}
