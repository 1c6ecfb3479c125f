//! Something is done to one of many live vectors, or to many in a row.

use crate::floor;
use crate::measure::{Result, Sample, interleave};
use crate::message::message;
use crate::ours::{Ahead, Ours};
use crate::registers::allocates_nothing;
use crate::{Notes, RUNS};

/// A vector of an APIC of which no vector is live, so that its message is published nowhere.
const ELSEWHERE: usize = 200 * 12;

pub(crate) fn measure(notes: &mut Notes, n: usize) -> Result<()> {
    type Work = fn(&mut Ours, usize) -> Sample;
    let figures: [(_, Work); 2] = [("mask_unmask", Ours::mask_unmask), ("retarget", Ours::retarget)];
    for (name, work) in figures {
        notes.take(name, |name| {
            let mut ours = Ours::new(Ahead::AtStart)?;
            ours.enable_at_once(n);
            allocates_nothing(name, || _ = work(&mut ours, n))?;
            let vm = floor::vm()?;
            let irqfds = floor::live(&vm, n)?;
            interleave(name, n, RUNS * 40, || Ok(work(&mut ours, n)), || floor::reattach(&vm, &irqfds))
        })?;
    }
    // Each sample is of another VM, as a block that is published is published. One is of a single commit, of which the kernel's
    // waiting for its readers is the most and differs: many of them.
    notes.take("retarget_unpublished", |name| {
        let ours = || {
            let mut ours = Ours::new(Ahead::InBlocks)?;
            ours.enable_at_once(n);
            Ok(ours.counting_commits(|ours| ours.move_to(n / 2, message(ELSEWHERE))))
        };
        interleave(name, n, RUNS * 4, ours, || {
            let vm = floor::vm()?;
            let irqfds = floor::live(&vm, n)?;
            floor::retarget(&vm, &irqfds, [n / 2].into_iter())
        })
    })
}

/// An interrupt balancer moves 64 of 2048 live vectors to a CPU that had none.
pub(crate) fn storm(notes: &mut Notes) -> Result<()> {
    notes.take("retarget_storm", |name| {
        let ours = || {
            let mut ours = Ours::new(Ahead::InBlocks)?;
            ours.enable_at_once(2048);
            Ok(ours.counting_commits(|ours| {
                (0..64).for_each(|index| ours.move_to(index * 32, message(ELSEWHERE + index)));
            }))
        };
        interleave(name, 2048, RUNS, ours, || {
            let vm = floor::vm()?;
            let irqfds = floor::live(&vm, 2048)?;
            floor::retarget(&vm, &irqfds, (0..64).map(|index| index * 32))
        })
    })
}
