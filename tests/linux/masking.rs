//! Masked vectors of a passed-through device. Their interrupts are pending in the PBA, and are delivered when they are unmasked.
//!
//! Real parts: KVM, VFIO, and the devices' own PBA. The guest masks by its table entry and reads its PBA.

use guest::{Line, Result, Session, Tools, Transcript};
use lab::Series;

use crate::growth::assert_every_ring_came;
use crate::stage::{self, Passed, Stage, hold, show};

pub(crate) const DEVICES: [Passed; 2] = [Passed::Doorbell, Passed::Card];
const ROUNDS: u64 = 2000;

/// PCIe r6 §7.7.2.8. A vector that was masked after use has a host vector, and its interrupt waits in an eventfd. One that
/// was never unmasked has none, and its interrupt waits in the device's own PBA.
pub(crate) fn a_masked_vector_waits_in_the_pba_with_and_without_a_host_vector(stage: &Stage) -> Result<()> {
    if !stage.has_one_of(&DEVICES) {
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::None, &DEVICES)?;
    let mut session = stage.start(&stage.jobs(machine, &["grow:3", "hold"]))?;
    hold(&mut session)?;
    assert_requested(stage, 3)?;

    let masked = session.ask("mask:1,raise:1", show)?;
    assert_pending(stage, &masked, "1,")?;
    assert_requested(stage, 3)?;
    let unmasked = session.ask("unmask:1", show)?;
    assert_delivered(stage, &unmasked)?;

    let reserved = session.ask("reserve,raise:3", show)?;
    assert_pending(stage, &reserved, "3,")?;
    assert_requested(stage, 3)?;
    assert_no_host_vector(stage, &session, 3)?;
    let requested = session.ask("request", show)?;
    assert_delivered(stage, &requested)?;
    assert_requested(stage, 4)?;

    session.go_on()?;
    stage::finish(session).map(drop)
}

/// The device rings a vector without pause, while the guest masks and unmasks it. Each time the mask bit was written no
/// interrupt comes, the vector is pending, and its interrupt comes when it is unmasked.
pub(crate) fn a_vector_rung_without_pause_is_silent_while_masked_and_loses_no_ring(
    stage: &Stage,
) -> Result<()> {
    if !stage.has_one_of(&[Passed::Doorbell]) {
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Doorbell])?;
    let seen = stage.run(&machine.job(&format!("storm:{ROUNDS}")).job("grow:3"))?;
    let storm = seen.all("doorbell").next().expect("a storm was run");
    let count = |name: &str| storm.number(&format!("storm_{name}"));
    stage::say(&format!(
        "{}: masked {} times while rung {} times; {} interrupts",
        stage.place,
        count("rounds")?,
        count("rung")?,
        count("received")?,
    ));
    assert_eq!(count("rounds")?, ROUNDS);
    for wrong in ["while_masked", "not_pending", "lost"] {
        assert_eq!(count(wrong)?, 0, "{wrong}: {storm}");
    }
    assert!(count("received")? >= ROUNDS, "one interrupt a round at least: {storm}");
    assert!(count("rung")? >= 2 * ROUNDS, "{storm}");
    // The vector is as it was before.
    assert_every_ring_came(seen.line("doorbell")?)
}

/// The last line of each device.
fn last_of_each<'a>(stage: &Stage, seen: &'a Transcript) -> Vec<&'a Line> {
    let devices = DEVICES.iter().filter(|&&device| stage.has(device)).count();
    let lines: Vec<_> = seen.all("doorbell").collect();
    assert!(lines.len() >= devices, "{lines:?}");
    lines[lines.len() - devices..].to_vec()
}

/// Checks that one interrupt is pending, and that these vectors show it.
fn assert_pending(stage: &Stage, seen: &Transcript, pending: &str) -> Result<()> {
    for line in last_of_each(stage, seen) {
        assert_eq!(line.value("pending")?, pending, "{line}");
        assert_eq!(line.number("received")? + 1, line.number("rung")?, "{line}");
    }
    Ok(())
}

/// Checks that no interrupt is pending.
pub(crate) fn assert_delivered(stage: &Stage, seen: &Transcript) -> Result<()> {
    for line in last_of_each(stage, seen) {
        assert_eq!(line.value("pending")?, "", "{line}");
        assert_every_ring_came(line)?;
    }
    Ok(())
}

/// Checks the number of vectors that the host's kernel has requested of each device.
pub(crate) fn assert_requested(stage: &Stage, vectors: u32) -> Result<()> {
    for device in DEVICES.into_iter().filter(|&device| stage.has(device)) {
        assert_eq!(stage.host.vectors(stage.address(device))?.requested, vectors, "{device:?}");
    }
    Ok(())
}

/// Checks that our VMM has no host vector for this vector of any device.
fn assert_no_host_vector(stage: &Stage, session: &Session<'_>, vector: u32) -> Result<()> {
    if !stage::is_ours() {
        return Ok(());
    }
    let report = session.report_now()?;
    for device in DEVICES.into_iter().filter(|&device| stage.has(device)) {
        let msix = report.msix(stage.address(device)).expect("its MSI-X is reported");
        assert!(msix.domain.vectors.iter().all(|own| own.vector != vector), "{msix:?}");
    }
    Ok(())
}
