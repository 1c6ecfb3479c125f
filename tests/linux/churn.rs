//! A long run of one guest: hundreds of vectors are requested, freed and moved between CPUs, the guest suspends, functions are reset while
//! vectors grow, and the driver is reloaded. No interrupt is lost, and the host gets all its interrupts back.

use std::time::{Duration, Instant};

use guest::{Result, Tools};
use lab::Series;

use crate::growth::{assert_disk_was_read, assert_every_ring_came};
use crate::stage::{self, Passed, Stage, hold};

/// A device of 2048 vectors, a card of 10 that can be reset, and a disk.
const DEVICES: [Passed; 3] = [Passed::Wide, Passed::Card, Passed::Disk];
/// The most vectors that the guest uses. The doorbell can ring no more.
const MOST: [(Passed, u32); 2] = [(Passed::Wide, 256), (Passed::Card, 10)];
const MOVES: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(20);
const REGROWTHS: u64 = 4;

/// Growth to 256 and back, moves of every vector under load, suspend and resume, resets in the middle of growth.
pub(crate) fn loses_nothing_through_growth_moves_suspend_and_reset(stage: &Stage) -> Result<()> {
    if !stage.has_one_of(&[Passed::Wide, Passed::Card]) {
        return Ok(());
    }
    let irqs = irqs(stage)?;
    let (moves, regrowths) = (format!("move:{MOVES}"), format!("regrow:{REGROWTHS}"));
    let jobs = [
        "grow:256",
        "hold",
        &moves,
        "shrink:1",
        "hold",
        "grow:16",
        "suspend:2",
        &regrowths,
        "reload:2",
        "nvme",
        "vectors",
    ];
    let machine = stage.guest(Series::V6_12, Tools::None, &DEVICES)?;
    let mut session = stage.start(&stage.jobs(machine, &jobs))?;

    hold(&mut session)?;
    for (device, most) in MOST.into_iter().filter(|(device, _)| stage.has(*device)) {
        assert_eq!(stage.host.vectors(stage.address(device))?.requested, most, "{device:?} at its most");
    }
    session.go_on()?;
    hold(&mut session)?;
    for (device, _) in MOST.into_iter().filter(|(device, _)| stage.has(*device)) {
        // The monitor keeps them for a while, in case the driver wants them again.
        let start = Instant::now();
        while stage.host.vectors(stage.address(device))?.requested != 1 {
            assert!(
                start.elapsed() < PATIENCE,
                "{device:?} was shrunk, and the host does not have its vectors back"
            );
        }
    }
    session.go_on()?;

    let seen = stage::finish(session)?;
    seen.all("doorbell").try_for_each(assert_every_ring_came)?;
    let vectors: u32 = MOST.iter().filter(|(device, _)| stage.has(*device)).map(|(_, most)| most).sum();
    let moved = seen.all("moved").map(|line| line.number("moves")).sum::<Result<u64>>()?;
    assert_eq!(moved, u64::from(vectors) * MOVES, "moves of vectors under load");
    assert_eq!(seen.line("suspended")?.number("times")?, 2);
    assert_eq!(seen.line("reloaded")?.number("times")?, 2);
    if stage.has(Passed::Card) {
        let regrown = seen.line("regrown")?;
        assert_eq!(regrown.number("times")?, REGROWTHS);
        assert!(regrown.number("resets")? >= REGROWTHS, "it was hardly reset while it grew: {regrown}");
    }
    assert_disk_was_read(stage, &seen)?;
    assert_eq!(self::irqs(stage)?, irqs, "interrupts that the host's kernel has described");
    Ok(())
}

/// The number of interrupt descriptors in the host's kernel, requested or not.
fn irqs(stage: &Stage) -> Result<usize> {
    Ok(stage.host.shell("ls /sys/kernel/irq")?.lines().count())
}
