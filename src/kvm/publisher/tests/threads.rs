//! Several threads at once: who waits for whom, and for how long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// Tells a commit how to end.
type End = Sender<io::Result<()>>;

/// A commit that says when it is under way, and ends when it is told how.
fn pausing() -> (impl FnOnce(&KvmIrqRouting) -> io::Result<()>, Receiver<()>, End) {
    let (begun, has_begun) = channel();
    let (end, told) = channel();
    let commit = move |_: &KvmIrqRouting| {
        begun.send(()).unwrap();
        told.recv().unwrap()
    };
    (commit, has_begun, end)
}

fn wait_until_wanted(publisher: &Publisher, messages: usize) {
    let start = Instant::now();
    while publisher.shared().wanted.len() < messages {
        assert!(start.elapsed() < Duration::from_secs(20), "nobody waits for the table");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_published_message_is_had_while_another_ones_commit_is_under_way() {
    let (publisher, kernel) = (Publisher::new(Irqchip::Kernel, 4), Kernel::default());
    let route = publish_one(&publisher, &kernel, message(0, 0x41));
    let (commit, has_begun, end) = pausing();
    let publisher = &publisher;
    // What ends the commit goes with this closure, also where it panics.
    thread::scope(move |scope| {
        scope.spawn(move || publisher.publish(&[message(0, 0xe0)], &mut Vec::new(), commit));
        has_begun.recv().unwrap();
        let mut answers = Vec::new();
        publisher.publish(&[message(0, 0x41)], &mut answers, |_| panic!("it is published"));
        assert_eq!(answers.pop().unwrap().unwrap(), route);
        publisher.withdraw(&route);
        end.send(Ok(())).unwrap();
    });
}

#[test]
fn a_message_on_its_way_is_not_had_before_the_kernel_has_it() {
    for (ends, commits) in [(Ok(()), 0), (Kernel::refuse(&KvmIrqRouting::new(0).unwrap()), 1)] {
        let publisher = Publisher::new(Irqchip::Kernel, 4);
        let (commit, has_begun, end) = pausing();
        let committed = AtomicUsize::new(0);
        let (publisher, counted) = (&publisher, &committed);
        thread::scope(move |scope| {
            scope.spawn(move || publisher.publish(&[message(0, 0x41)], &mut Vec::new(), commit));
            has_begun.recv().unwrap();
            let second = scope.spawn(move || {
                let mut answers = Vec::new();
                publisher.publish(&[message(0, 0x41)], &mut answers, |_| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                });
                answers.pop().unwrap().is_ok()
            });
            wait_until_wanted(publisher, 1);
            assert!(!second.is_finished());
            end.send(ends).unwrap();
            assert!(second.join().unwrap());
        });
        assert_eq!(committed.into_inner(), commits, "a refused one is tried again by who wants it");
    }
}

#[test]
fn what_several_wait_for_is_published_by_one_commit() {
    let publisher = Publisher::new(Irqchip::Kernel, 16);
    let (commit, has_begun, end) = pausing();
    let committed = AtomicUsize::new(0);
    let (all, counted) = (&publisher, &committed);
    thread::scope(move |scope| {
        let publisher = all;
        scope.spawn(move || publisher.publish(&[message(0, 0x41)], &mut Vec::new(), commit));
        has_begun.recv().unwrap();
        for destination in 1..9 {
            scope.spawn(move || {
                let mut answers = Vec::new();
                publisher.publish(&[message(destination, 0xee)], &mut answers, |_| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                });
                assert!(answers.pop().unwrap().is_ok());
            });
        }
        wait_until_wanted(publisher, 8);
        end.send(Ok(())).unwrap();
    });
    assert_eq!((committed.into_inner(), publisher.counters().commits), (1, 2));
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
    assert_eq!(publisher.counters().in_use, 0);
    assert_agreement(&publisher, &kernel);
}
