//! Several threads at once: which callers wait for which commit, and for how many.

use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// A commit that ends as the test says. Without an answer the table is accepted.
pub(super) struct UnderWay {
    pub(super) table: Taken,
    end: Sender<End>,
}

enum End {
    Take,
    Refuse(i32),
    Panic,
}

/// Lets the receiver end each commit from now on. After the receiver is dropped, every table is accepted.
pub(super) fn pause(kernel: &Kernel) -> Receiver<UnderWay> {
    let (begun, commits) = channel();
    kernel.answer(move |table| {
        let (end, told) = channel();
        match begun.send(UnderWay { table: table.clone(), end }).map(|()| told.recv()) {
            Ok(Ok(End::Refuse(errno))) => Err(io::Error::from_raw_os_error(errno)),
            Ok(Ok(End::Panic)) => panic!("a bug in the hypervisor's code"),
            Ok(Ok(End::Take)) | Ok(Err(_)) | Err(_) => Ok(()),
        }
    });
    commits
}

/// Publishes a message on a thread of its own.
pub(super) fn publish<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    publisher: &'env Publisher<Kernel>,
    message: Interrupt,
) -> ScopedJoinHandle<'scope, Result<Route, RouterError>> {
    scope.spawn(move || super::publish(publisher, &[message]).pop().unwrap())
}

impl UnderWay {
    pub(super) fn take(self) {
        self.end.send(End::Take).unwrap();
    }

    pub(super) fn refuse(self, errno: i32) {
        self.end.send(End::Refuse(errno)).unwrap();
    }

    fn panic(self) {
        self.end.send(End::Panic).unwrap();
    }

    fn carries(&self, message: Interrupt) -> bool {
        self.table.messages.values().any(|carried| *carried == message)
    }
}

pub(super) fn next(commits: &Receiver<UnderWay>) -> UnderWay {
    commits.recv_timeout(SOON).expect("no commit begins")
}

fn wait_until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn wait_until_waiting(publisher: &Publisher<Kernel>, callers: usize) {
    wait_until("no caller waits for a commit", || publisher.shared.lock().waiting.len() == callers);
}

/// The result of a thread that must finish while the commit is under way.
pub(super) fn got<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    wait_until("the thread still waits", || thread.is_finished());
    thread.join().unwrap()
}

#[test]
fn a_published_message_is_found_while_another_is_committed() {
    let (publisher, kernel) = publisher(4);
    let route = publish_one(&publisher, message(0, 0x41));
    let commits = pause(&kernel);
    let publisher = &publisher;
    // The closure owns the receiver. Commits end also if the closure panics.
    thread::scope(move |scope| {
        let _other = publish(scope, publisher, message(0, 0xe0));
        let under_way = next(&commits);
        assert_eq!(publish_one(publisher, message(0, 0x41)), route);
        let gsi = route.gsi();
        publisher.put(route);
        assert_eq!(publisher.get(message(0, 0x41)).map(|route| route.gsi()), Some(gsi));
        under_way.take();
    });
}

#[test]
fn a_pending_message_is_not_found_before_it_is_in_force() {
    for refused in [false, true] {
        let (publisher, kernel) = &publisher(4);
        let commits = pause(kernel);
        thread::scope(move |scope| {
            let _first = publish(scope, publisher, message(0, 0x41));
            let under_way = next(&commits);
            let second = publish(scope, publisher, message(0, 0x41));
            wait_until_waiting(publisher, 1);
            assert!(!second.is_finished());
            assert_eq!(publisher.get(message(0, 0x41)), None);
            if refused {
                under_way.refuse(ENOMEM);
                // The waiting caller publishes it in a commit of its own.
                next(&commits).take();
            } else {
                under_way.take();
            }
            assert!(got(second).is_ok());
            assert_eq!(publisher.counters().commits, 1);
        });
    }
}

#[test]
fn a_waiting_caller_finds_a_prefetched_message_during_the_next_commit() {
    let (publisher, kernel) = &publisher(4);
    let commits = pause(kernel);
    thread::scope(move |scope| {
        let _first = publish(scope, publisher, message(0, 0x41));
        let first = next(&commits);
        let prefetched = publish(scope, publisher, message(0, 0x42));
        let missing = publish(scope, publisher, message(2, 0xee));
        wait_until_waiting(publisher, 2);
        first.take();
        let second = next(&commits);
        assert!(got(prefetched).is_ok());
        second.take();
        assert!(got(missing).is_ok());
    });
}

#[test]
fn a_waiting_caller_is_served_by_the_next_commit_however_many_callers_follow() {
    const ROUNDS: u32 = 20;
    const EACH: u32 = 6;
    // Each message has a destination of its own, so none is prefetched with another.
    let (publisher, kernel) = &publisher(1);
    let commits = pause(kernel);
    thread::scope(move |scope| {
        let mut carried = vec![(message(0, 0xee), publish(scope, publisher, message(0, 0xee)))];
        for round in 0..ROUNDS {
            let under_way = next(&commits);
            // These callers arrive while the commit is under way. Those of the round before have their
            // routes.
            let coming: Vec<_> = (0..EACH)
                .map(|n| message(10 + round * EACH + n, 0xee))
                .map(|message| (message, publish(scope, publisher, message)))
                .collect();
            wait_until_waiting(publisher, coming.len());
            assert!(carried.iter().all(|(message, _)| under_way.carries(*message)));
            assert!(carried.iter().all(|(_, thread)| !thread.is_finished()));
            under_way.take();
            let before = std::mem::replace(&mut carried, coming);
            before
                .into_iter()
                .for_each(|(message, thread)| assert_eq!(got(thread).unwrap().message(), message));
        }
        drop(commits);
        carried.into_iter().for_each(|(_, thread)| assert!(got(thread).is_ok()));
        let RouteCounters { commits, longest_wait, .. } = publisher.counters();
        assert_eq!((commits, longest_wait), (u64::from(ROUNDS) + 1, 2));
    });
}

#[test]
fn a_refused_commit_fails_exactly_the_callers_whose_messages_it_carried() {
    let (publisher, kernel) = &publisher(64);
    let _in_use = publish_one(publisher, message(0, 0x41));
    let commits = pause(kernel);
    thread::scope(|scope| {
        let commits = commits;
        let leader = publish(scope, publisher, message(1, 0xee));
        let first = next(&commits);
        let carried: Vec<_> = (2..6).map(|to| publish(scope, publisher, message(to, 0xee))).collect();
        wait_until_waiting(publisher, carried.len());
        first.refuse(12);
        let second = next(&commits);
        let later = publish(scope, publisher, message(2, 0xee));
        wait_until_waiting(publisher, 1);
        second.refuse(7);
        let third = next(&commits);
        for (thread, errno) in iter::once((leader, 12)).chain(carried.into_iter().zip(iter::repeat(7))) {
            let Err(RouterError::Commit { routes, source }) = got(thread) else { panic!("it was refused") };
            assert!(routes > 24 + 64, "{routes} entries");
            assert_eq!(source.raw_os_error(), Some(errno));
        }
        third.refuse(12);
        assert!(got(later).is_err());
    });
    assert_agreement(publisher, kernel);
}

#[test]
fn a_commit_that_panics_leaves_no_caller_waiting_and_restores_the_table() {
    let (publisher, kernel) = &publisher(64);
    let _in_use = publish_one(publisher, message(0, 0x41));
    let commits = pause(kernel);
    thread::scope(move |scope| {
        let leader = scope
            .spawn(|| catch_unwind(AssertUnwindSafe(|| publish_one(publisher, message(1, 0xee)))).is_err());
        let first = next(&commits);
        let other = publish(scope, publisher, message(2, 0xee));
        wait_until_waiting(publisher, 1);
        first.panic();
        next(&commits).take();
        assert!(got(leader), "the panic is the leader's");
        let route = got(other).unwrap();
        assert_eq!(kernel.message(route.gsi()), Some(message(2, 0xee)));
    });
    assert_agreement(publisher, kernel);
}

#[test]
fn callers_that_wait_for_room_in_vain_are_refused_without_a_commit() {
    let (publisher, kernel) = full();
    let batch: Vec<_> = kernel.taken().messages.values().copied().collect();
    let mut in_use: Vec<_> = super::publish(&publisher, &batch).into_iter().map(Result::unwrap).collect();
    publisher.put(in_use.pop().unwrap());
    let commits_before = publisher.counters().commits;
    let commits = pause(&kernel);
    let all = &publisher;
    thread::scope(move |scope| {
        let lucky = publish(scope, all, message(200, 0x41));
        let under_way = next(&commits);
        let others: Vec<_> = (0..3).map(|n| publish(scope, all, message(201 + n, 0x41))).collect();
        wait_until_waiting(all, 3);
        under_way.take();
        assert!(got(lucky).is_ok());
        for other in others {
            let told = got(other);
            assert!(matches!(told, Err(RouterError::NoRoom { routes, .. }) if routes == batch.len()));
        }
    });
    assert_eq!(publisher.counters().commits, commits_before + 1);
}

#[test]
fn a_prefetch_waits_as_other_callers_do_and_keeps_none_waiting() {
    let (publisher, kernel) = &publisher(4);
    let commits = pause(kernel);
    thread::scope(move |scope| {
        let _first = publish(scope, publisher, message(0, 0x41));
        let first = next(&commits);
        let prefetch = scope.spawn(|| publisher.prefetch(destinations([0, 1])));
        let other = publish(scope, publisher, message(3, 0xee));
        wait_until_waiting(publisher, 2);
        first.take();
        let both = next(&commits);
        assert!(both.carries(message(3, 0xee)));
        assert!({ DEVICE_VECTORS }.all(|vector| both.carries(message(1, vector))));
        both.take();
        assert!(got(prefetch).is_ok() && got(other).is_ok());
        assert_eq!(publisher.counters().in_use, 2);
    });
}

#[test]
fn every_route_is_in_force_whatever_the_threads_do() {
    // The table has too little room for all messages, so they replace each other.
    let (publisher, kernel) = full();
    let commits = AtomicUsize::new(0);
    kernel.answer(move |_| match commits.fetch_add(1, Ordering::Relaxed) % 5 {
        4 => Err(io::Error::from_raw_os_error(ENOSPC)),
        _ => Ok(()),
    });
    thread::scope(|scope| {
        for thread in 0..4u32 {
            let (publisher, kernel) = (&publisher, &kernel);
            scope.spawn(move || {
                let mut held: Vec<Route> = Vec::new();
                for round in 0..200u32 {
                    let batch: Vec<_> = (0..8)
                        .map(|n| {
                            message(30 + (round * 7 + n * thread) % 40, 0x20 + (round * 13 + n) as u8 % 0xd0)
                        })
                        .collect();
                    let answers = super::publish(publisher, &batch);
                    assert_eq!(answers.len(), batch.len());
                    held.extend(answers.into_iter().flatten());
                    for route in &held {
                        assert_eq!(kernel.message(route.gsi()), Some(route.message()));
                    }
                    held.drain(..held.len() / 2).for_each(|route| publisher.put(route));
                }
                held.into_iter().for_each(|route| publisher.put(route));
            });
        }
    });
    let RouteCounters { in_use, longest_wait, .. } = publisher.counters();
    assert_eq!(in_use, 0);
    assert!(longest_wait <= 2, "{longest_wait}");
    assert_agreement(&publisher, &kernel);
}
