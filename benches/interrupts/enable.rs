//! A driver enables its vectors; the floor is as many eventfds and irqfds, and one commit.

use std::time::Duration;

use crate::floor;
use crate::measure::{Result, Sample, interleave};
use crate::ours::{Ahead, Ours};
use crate::{Notes, RUNS};

/// The fewer the vectors, the more a pair is at the mercy of whatever else the CPU does.
fn pairs(n: usize) -> usize {
    match n {
        ..=64 => RUNS * 8,
        65..=512 => RUNS * 4,
        _ => RUNS * 2,
    }
}

pub(crate) fn measure(notes: &mut Notes, n: usize) -> Result<()> {
    type Work = fn(&mut Ours, usize) -> Sample;
    let figures: [(_, _, Work); 4] = [
        ("enable_one_by_one", Ahead::AtStart, Ours::enable_one_by_one),
        ("enable_one_by_one_blocks", Ahead::InBlocks, Ours::enable_one_by_one),
        ("enable_at_once", Ahead::AtStart, Ours::enable_at_once),
        ("enable_at_once_blocks", Ahead::InBlocks, Ours::enable_at_once),
    ];
    for (name, ahead, work) in figures {
        notes.take(name, |name| {
            let ours = || Ok(work(&mut Ours::new(ahead)?, n));
            interleave(name, n, pairs(n), ours, || Ok(floor::enable(&floor::vm()?, n)?.0))
        })?;
    }
    // Settled: not before every vector is an irqfd, which is looked at after the clock has stopped.
    for (name, ahead) in
        [("enable_one_by_one_settled", Ahead::AtStart), ("enable_one_by_one_settled_blocks", Ahead::InBlocks)]
    {
        notes.take(name, |name| {
            let ours = || {
                let mut ours = Ours::new(ahead)?;
                let sample = ours.enable_one_by_one_settled(n);
                let live = ours.function.report().live;
                if live as usize == n { Ok(sample) } else { Err(format!("{live} of {n} are irqfds").into()) }
            };
            interleave(name, n, pairs(n), ours, || Ok(floor::enable(&floor::vm()?, n)?.0))
        })?;
    }
    // Host vectors by a thread, on the same CPU: until the guest's writes are done, and until every vector is an irqfd.
    for (name, which) in [("enable_one_by_one_growing", 0), ("enable_one_by_one_growing_settled", 1)] {
        notes.take(name, |name| {
            let ours = || Ok(Ours::new(Ahead::AtStart)?.enable_one_by_one_growing(n)?[which]);
            interleave(name, n, pairs(n), ours, || Ok(floor::enable(&floor::vm()?, n)?.0))
        })?;
    }
    // The pauses themselves do not count: a vector's caches are colder after them, and that is what is measured.
    for (name, pause, runs) in [
        ("enable_one_by_one_paced_20us", 20, pairs(n)),
        ("enable_one_by_one_paced_200us", 200, pairs(n).max(60)),
    ] {
        notes.take(name, |name| {
            let pause = Duration::from_micros(pause);
            let ours = || Ok(Ours::new(Ahead::AtStart)?.enable_paced(n, pause));
            interleave(name, n, runs, ours, || floor::enable_paced(&floor::vm()?, n, pause))
        })?;
    }
    Ok(())
}
