//! A VMM that is killed while its guest takes and frees vectors. Nothing of it stays on the host, and the next one works.

use std::time::Duration;

use guest::{Result, Tools};
use lab::Series;

use crate::growth::assert_every_ring_came;
use crate::stage::{self, Passed, Stage};

const SIGKILL: i32 = 9;

/// A few times.
pub(crate) fn a_killed_vmm_leaves_nothing_on_the_host(stage: &Stage) -> Result<()> {
    kill(stage, 3)
}

/// A hundred times.
pub(crate) fn a_hundred_killed_vmms_leave_nothing_on_the_host(stage: &Stage) -> Result<()> {
    kill(stage, 100)
}

fn kill(stage: &Stage, times: u32) -> Result<()> {
    if !stage.has_one_of(&[Passed::Doorbell]) {
        return Ok(());
    }
    let guest = || stage.guest(Series::V6_12, Tools::None, &[Passed::Doorbell]);
    let irqs = || Ok::<_, guest::Error>(stage.host.shell("ls /sys/kernel/irq")?.lines().count());
    let requested = || Ok::<_, guest::Error>(stage.host.vectors(stage.address(Passed::Doorbell))?.requested);
    let (before, mut held) = (irqs()?, Vec::new());
    for round in 0..times {
        // The vectors come and go for as long as it lives.
        let mut session = stage.start(&guest()?.job("pound:1000000"))?;
        session.until("pounding", stage::show)?;
        // The moments of a run that failed can be had again: each round has its own, the same each time.
        let moment = fastrand::Rng::with_seed(round.into()).u64(0..1500);
        std::thread::sleep(Duration::from_millis(moment));
        held.push(requested()?);
        stage.host.shell(&format!("kill -KILL {}", session.pid()?))?;
        let seen = session.finish(stage::show)?;
        let signal = seen.status.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status));
        assert_eq!(signal, Some(SIGKILL), "round {round}: {}", seen.status_text());
        assert_eq!((requested()?, irqs()?), (0, before), "round {round}, killed after {moment} ms");
    }
    stage::say(&format!("{}: killed {times} times, with {held:?} vectors", stage.place));
    assert!(held.iter().any(|&vectors| vectors > 1), "never killed while vectors had grown");
    let seen = stage::finish(stage.start(&guest()?.job("grow"))?)?;
    let doorbell = seen.line("doorbell")?;
    assert_eq!(doorbell.number("vectors")?, 64);
    assert_every_ring_came(doorbell)
}
