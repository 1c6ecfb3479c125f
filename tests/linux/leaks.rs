//! Drivers are bound and unbound. The host gets back every interrupt that they used.

use guest::{Result, Session, Tools};
use lab::Series;

use crate::growth::assert_disk_was_read;
use crate::stage::{self, Passed, Stage, hold};

/// The most memory that the VMM may have gained after the drivers were rebound.
const SLACK_KIB: u64 = 1024;
const DEVICES: [Passed; 2] = [Passed::Disk, Passed::Doorbell];

/// The host's resources that a guest's devices use at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Holdings {
    descriptors: usize,
    /// Interrupt descriptors in the host's kernel, requested or not.
    irqs: usize,
    requested: u32,
    /// GSIs that a vector is live on.
    in_use: u64,
}

/// Both drivers are unbound and bound ten times, and use all their vectors each time.
pub(crate) fn unbinding_leaks_nothing(stage: &Stage) -> Result<()> {
    if !stage.has_one_of(&DEVICES) {
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::None, &DEVICES)?;
    // The first round makes what is made once; ten more must add nothing.
    let jobs = ["rebind:1", "hold", "rebind:10", "hold", "nvme", "vectors", "grow"];
    let mut session = stage.start(&stage.jobs(machine, &jobs))?;
    hold(&mut session)?;
    let (before, memory_before) = (holdings(stage, &session, &DEVICES)?, memory_kib(stage, &session)?);
    session.go_on()?;
    hold(&mut session)?;
    let (after, memory_after) = (holdings(stage, &session, &DEVICES)?, memory_kib(stage, &session)?);
    session.go_on()?;
    let seen = stage::finish(session)?;
    stage::say(&format!(
        "{}: {before:?} before and {after:?} after 10 times; memory {memory_before} and {memory_after} KiB",
        stage.place
    ));
    assert_eq!(before, after);
    assert!(memory_after <= memory_before + SLACK_KIB, "from {memory_before} KiB to {memory_after} KiB");
    assert_disk_was_read(stage, &seen)
}

/// What these devices use now.
pub(crate) fn holdings(stage: &Stage, session: &Session<'_>, devices: &[Passed]) -> Result<Holdings> {
    let count = |script: String| Ok::<_, guest::Error>(stage.host.shell(&script)?.lines().count());
    let devices = devices.iter().filter(|&&device| stage.has(device));
    let requested = devices.map(|&device| stage.host.vectors(stage.address(device)));
    let requested = requested.collect::<Result<Vec<_>>>()?;
    Ok(Holdings {
        descriptors: count(format!("ls /proc/{}/fd", session.pid()?))?,
        irqs: count("ls /sys/kernel/irq".to_owned())?,
        requested: requested.iter().map(|vectors| vectors.requested).sum(),
        in_use: if stage::is_ours() { session.report_now()?.routes.in_use } else { 0 },
    })
}

/// The VMM's resident memory. All guest memory is pinned for its devices, so only the VMM's own memory can grow.
fn memory_kib(stage: &Stage, session: &Session<'_>) -> Result<u64> {
    let script = format!("awk '/^VmRSS:/ {{ print $2 }}' /proc/{}/status", session.pid()?);
    Ok(stage.host.shell(&script)?.trim().parse().expect("VmRSS is a number"))
}
