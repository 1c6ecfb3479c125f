//! Several threads at once: who waits for whom, and for how long.

use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// A kernel that says what each commit hands over, and ends it when it is told how. Once nobody listens it takes all.
#[derive(Clone)]
struct Pausing(Sender<UnderWay>);

struct UnderWay {
    messages: HashSet<Interrupt>,
    end: Sender<io::Result<()>>,
}

impl Pausing {
    fn new() -> (Self, Receiver<UnderWay>) {
        let (begun, commits) = channel();
        (Self(begun), commits)
    }

    fn commit(&self, table: &KvmIrqRouting) -> io::Result<()> {
        let (end, told) = channel();
        let messages = table.as_slice().iter().filter_map(message_of).collect();
        match self.0.send(UnderWay { messages, end }) {
            Ok(()) => told.recv().unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }

    /// Asks for a message on a thread of its own.
    fn publish<'scope, 'env>(
        &self,
        scope: &'scope Scope<'scope, 'env>,
        publisher: &'env Publisher,
        message: Interrupt,
    ) -> ScopedJoinHandle<'scope, Result<Route, RouterError>> {
        let kernel = self.clone();
        scope.spawn(move || {
            let mut answers = Vec::new();
            publisher.publish(&[message], &mut answers, |table| kernel.commit(table));
            answers.pop().unwrap()
        })
    }
}

impl UnderWay {
    fn end(self, result: io::Result<()>) {
        self.end.send(result).unwrap();
    }
}

fn next(commits: &Receiver<UnderWay>) -> UnderWay {
    commits.recv_timeout(SOON).expect("nobody commits")
}

fn wait_until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn wait_until_waiting(publisher: &Publisher, callers: usize) {
    wait_until("nobody waits for a commit", || publisher.shared().waiting.len() == callers);
}

/// What it got, while whatever is under way stays so.
fn got<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    wait_until("it still waits", || thread.is_finished());
    thread.join().unwrap()
}

#[test]
fn a_published_message_is_had_while_another_ones_commit_is_under_way() {
    let (publisher, kernel) = (Publisher::new(IRQCHIP, 4), Kernel::default());
    let route = publish_one(&publisher, &kernel, message(0, 0x41));
    let (kernel, commits) = Pausing::new();
    let publisher = &publisher;
    // What ends the commits goes with this closure, also where it panics.
    thread::scope(move |scope| {
        let _other = kernel.publish(scope, publisher, message(0, 0xe0));
        let under_way = next(&commits);
        let mut answers = Vec::new();
        publisher.publish(&[message(0, 0x41)], &mut answers, |_| panic!("it is published"));
        assert_eq!(answers.pop().unwrap().unwrap(), route);
        publisher.withdraw(&route);
        assert_eq!(publisher.find(message(0, 0x41)), Some(route));
        under_way.end(Ok(()));
    });
}

#[test]
fn a_message_on_its_way_is_not_had_before_the_kernel_has_it() {
    for refused in [false, true] {
        let publisher = &Publisher::new(IRQCHIP, 4);
        let (kernel, commits) = Pausing::new();
        thread::scope(move |scope| {
            let _first = kernel.publish(scope, publisher, message(0, 0x41));
            let under_way = next(&commits);
            let second = kernel.publish(scope, publisher, message(0, 0x41));
            wait_until_waiting(publisher, 1);
            assert!(!second.is_finished());
            assert_eq!(publisher.find(message(0, 0x41)), None);
            under_way.end(if refused { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) });
            if refused {
                // It is tried again by who wants it.
                next(&commits).end(Ok(()));
            }
            assert!(got(second).is_ok());
            assert_eq!(publisher.counters().commits, 1);
        });
    }
}

#[test]
fn what_is_published_ahead_of_somebody_who_waits_is_had_while_the_next_commit_is_under_way() {
    let publisher = &Publisher::new(IRQCHIP, 4);
    let (kernel, commits) = Pausing::new();
    thread::scope(move |scope| {
        let _first = kernel.publish(scope, publisher, message(0, 0x41));
        let first = next(&commits);
        let ahead = kernel.publish(scope, publisher, message(0, 0x42));
        let missing = kernel.publish(scope, publisher, message(2, 0xee));
        wait_until_waiting(publisher, 2);
        first.end(Ok(()));
        let second = next(&commits);
        assert!(got(ahead).is_ok());
        second.end(Ok(()));
        assert!(got(missing).is_ok());
    });
}

#[test]
fn whoever_waits_is_served_by_the_very_next_commit_however_many_come_after_it() {
    const ROUNDS: u32 = 20;
    const EACH: u32 = 6;
    // Each message is of a destination of its own, and of one vCPU no other one's is published ahead.
    let publisher = &Publisher::new(IRQCHIP, 1);
    let (kernel, commits) = Pausing::new();
    thread::scope(move |scope| {
        let mut carried = vec![(message(0, 0xee), kernel.publish(scope, publisher, message(0, 0xee)))];
        for round in 0..ROUNDS {
            let under_way = next(&commits);
            // They come while it is under way; those of the round before have what they want, and wait for nothing else.
            let coming: Vec<_> = (0..EACH)
                .map(|n| message(10 + round * EACH + n, 0xee))
                .map(|message| (message, kernel.publish(scope, publisher, message)))
                .collect();
            wait_until_waiting(publisher, coming.len());
            assert!(carried.iter().all(|(message, _)| under_way.messages.contains(message)));
            assert!(carried.iter().all(|(_, thread)| !thread.is_finished()));
            under_way.end(Ok(()));
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
fn a_refused_commit_is_told_to_everybody_whose_messages_it_carried_and_to_nobody_else() {
    let publisher = &Publisher::new(IRQCHIP, 64);
    let accepted = Kernel::default();
    let _in_use = publish_one(publisher, &accepted, message(0, 0x41));
    let (kernel, commits) = Pausing::new();
    thread::scope(|scope| {
        let commits = commits;
        let leader = kernel.publish(scope, publisher, message(1, 0xee));
        let first = next(&commits);
        let carried: Vec<_> = (2..6).map(|to| kernel.publish(scope, publisher, message(to, 0xee))).collect();
        wait_until_waiting(publisher, carried.len());
        first.end(Err(io::Error::from_raw_os_error(12)));
        let second = next(&commits);
        let later = kernel.publish(scope, publisher, message(2, 0xee));
        wait_until_waiting(publisher, 1);
        second.end(Err(io::Error::from_raw_os_error(7)));
        let third = next(&commits);
        for (thread, errno) in iter::once((leader, 12)).chain(carried.into_iter().zip(iter::repeat(7))) {
            let Err(RouterError::Commit { routes, source }) = got(thread) else { panic!("it was refused") };
            assert!(routes > 40 + 64, "{routes} entries");
            assert_eq!(source.raw_os_error(), Some(errno));
        }
        third.end(Err(io::Error::from_raw_os_error(12)));
        assert!(got(later).is_err());
    });
    assert_agreement(publisher, &accepted);
}

#[test]
fn a_commit_that_panics_leaves_nobody_waiting_and_the_table_as_it_was() {
    let (publisher, accepted) = (&Publisher::new(IRQCHIP, 64), &Kernel::default());
    let _in_use = publish_one(publisher, accepted, message(0, 0x41));
    thread::scope(|scope| {
        let ask = |message, commit: fn(&Kernel, &KvmIrqRouting) -> io::Result<()>| {
            scope.spawn(move || {
                let mut answers = Vec::new();
                publisher.publish(&[message], &mut answers, |table| commit(accepted, table));
                answers.pop().unwrap()
            })
        };
        let mut waiting = None;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            publisher.publish(&[message(1, 0xee)], &mut Vec::new(), |_| {
                waiting = Some(ask(message(2, 0xee), Kernel::take));
                wait_until_waiting(publisher, 1);
                panic!("a bug in whatever hands the table over");
            });
        }));
        assert!(panicked.is_err());
        let route = got(waiting.unwrap()).unwrap();
        assert_eq!(accepted.message(route.gsi()), Some(message(2, 0xee)));
    });
    assert_agreement(publisher, accepted);
}

#[test]
fn those_who_wait_in_vain_for_room_are_told_so_without_a_commit() {
    let (publisher, kernel) = full();
    let batch: Vec<_> = kernel.taken().messages.values().copied().collect();
    let mut in_use: Vec<_> = publish(&publisher, &kernel, &batch).into_iter().map(Result::unwrap).collect();
    publisher.withdraw(&in_use.pop().unwrap());
    let commits_before = publisher.counters().commits;
    let (kernel, commits) = Pausing::new();
    let all = &publisher;
    thread::scope(move |scope| {
        let lucky = kernel.publish(scope, all, message(200, 0x41));
        let under_way = next(&commits);
        let others: Vec<_> = (0..3).map(|n| kernel.publish(scope, all, message(201 + n, 0x41))).collect();
        wait_until_waiting(all, 3);
        under_way.end(Ok(()));
        assert!(got(lucky).is_ok());
        for other in others {
            let told = got(other);
            assert!(matches!(told, Err(RouterError::NoRoom { routes, .. }) if routes == batch.len()));
        }
    });
    assert_eq!(publisher.counters().commits, commits_before + 1);
}

#[test]
fn destinations_at_start_wait_as_anybody_does_and_keep_nobody_waiting() {
    let publisher = &Publisher::new(IRQCHIP, 4);
    let (kernel, commits) = Pausing::new();
    thread::scope(move |scope| {
        let _first = kernel.publish(scope, publisher, message(0, 0x41));
        let first = next(&commits);
        let destinations = {
            let kernel = kernel.clone();
            scope.spawn(move || publisher.publish_destinations([0, 1], |table| kernel.commit(table)))
        };
        let other = kernel.publish(scope, publisher, message(3, 0xee));
        wait_until_waiting(publisher, 2);
        first.end(Ok(()));
        let both = next(&commits);
        assert!(both.messages.contains(&message(3, 0xee)));
        assert!({ DEVICE_VECTORS }.all(|vector| both.messages.contains(&message(1, vector))));
        both.end(Ok(()));
        assert!(got(destinations).is_ok() && got(other).is_ok());
        assert_eq!(publisher.counters().in_use, 2);
    });
}

#[test]
fn every_route_is_in_the_kernels_table_under_any_threads() {
    // A table that has no room for all, so that messages take each other's room.
    let (publisher, kernel) = full();
    let commits = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..4u32 {
            let (publisher, kernel, commits) = (&publisher, &kernel, &commits);
            scope.spawn(move || {
                let mut held: Vec<Route> = Vec::new();
                for round in 0..200u32 {
                    let batch: Vec<_> = (0..8)
                        .map(|n| {
                            message(30 + (round * 7 + n * thread) % 40, 0x20 + (round * 13 + n) as u8 % 0xd0)
                        })
                        .collect();
                    let mut answers = Vec::new();
                    publisher.publish(&batch, &mut answers, |table| {
                        match commits.fetch_add(1, Ordering::Relaxed) % 5 {
                            4 => Kernel::refuse(table),
                            _ => kernel.take(table),
                        }
                    });
                    assert_eq!(answers.len(), batch.len());
                    held.extend(answers.into_iter().flatten());
                    for route in &held {
                        assert_eq!(kernel.message(route.gsi()), Some(route.message()));
                    }
                    held.drain(..held.len() / 2).for_each(|route| publisher.withdraw(&route));
                }
                held.iter().for_each(|route| publisher.withdraw(route));
            });
        }
    });
    let RouteCounters { in_use, longest_wait, .. } = publisher.counters();
    assert_eq!(in_use, 0);
    assert!(longest_wait <= 2, "{longest_wait}");
    assert_agreement(&publisher, &kernel);
}
