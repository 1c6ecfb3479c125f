//! The VMM's entropy device under Debian's driver. The guest receives the bytes, and one interrupt for each trigger of the device.

use guest::{Line, Result};
use lab::Series;

use crate::stage::{self, Stage, hold, show};

/// Bytes of one request of the kernel.
const REQUEST: u64 = 64;

/// A guest reads from the device, moves its vector, and rebinds the driver ten times. Linux waits a tick after each 64 bytes.
pub(crate) fn each_of_its_interrupts_is_counted_once_by_guest_and_vmm(stage: &Stage) -> Result<()> {
    draws(stage, Series::V6_1, 16)
}

/// The guest reads 1 MiB.
pub(crate) fn a_mib_of_entropy_is_counted_alike(stage: &Stage) -> Result<()> {
    draws(stage, Series::V6_12, 1024)
}

fn draws(stage: &Stage, kernel: Series, kib: u64) -> Result<()> {
    let machine = stage.guest_with_rng(kernel)?;
    let draw = format!("entropy:{kib}");
    let counted = ["hold", "vectors", "hold"];
    let jobs =
        [&[draw.as_str()][..], &counted, &["affinity"], &counted, &["rebind:10", "entropy:4"]].concat();
    let mut session = stage.start(&jobs.iter().fold(machine, |machine, job| machine.job(job)))?;

    let drawn = session.until("entropy", show)?;
    let bytes = kib << 10;
    assert_is_random(&drawn, bytes)?;
    let interrupts = counted_alike(stage, &mut session)?;
    assert!(interrupts >= bytes / REQUEST, "{interrupts} interrupts");
    stage::say(&format!(
        "{}, guest {kernel}: {bytes} bytes in {:.1} s, {interrupts} interrupts, each of one trigger",
        stage.place,
        drawn.seconds("to")? - drawn.seconds("from")?,
    ));

    counted_alike(stage, &mut session)?;
    let moves: Vec<_> = session.transcript().all("affinity").cloned().collect();
    assert_eq!(moves.len(), 3, "{moves:?}");
    for moved in &moves {
        assert!(moved.number("count")? >= moved.number("requests")?, "on another CPU: {moved}");
    }

    let seen = stage::finish(session)?;
    assert_eq!(seen.all("rebound").count(), 10);
    assert_is_random(seen.line("entropy")?, 4 << 10)
}

/// Checks that the guest's count is between the VMM's counts before and after it, because the guest's kernel reads from the device too.
/// Returns the guest's count.
fn counted_alike(stage: &Stage, session: &mut guest::Session<'_>) -> Result<u64> {
    let before = delivered(session)?;
    session.go_on()?;
    let after = delivered(session)?;
    let of_queue = |line: &&Line| line.value("name").is_ok_and(|name| name.ends_with("-input"));
    let counted = session.transcript().all("interrupt").filter(of_queue).last().expect("it had interrupts");
    let counted = counted.number("count")?;
    println!("guest {counted}, delivered {before:?} before and {after:?} after");
    if let (Some(before), Some(after)) = (before, after) {
        assert!((before..=after).contains(&counted), "{}: {before} to {after}, not {counted}", stage.place);
    }
    session.go_on()?;
    Ok(counted)
}

/// The number of interrupts that our VMM has delivered, while the guest waits.
fn delivered(session: &mut guest::Session<'_>) -> Result<Option<u64>> {
    hold(session)?;
    if !stage::is_ours() {
        return Ok(None);
    }
    let triggers = session.report_now()?.triggers("rng").expect("the device is reported");
    assert_eq!((triggers.dropped, triggers.host_failures), (0, 0));
    Ok(Some(triggers.delivered))
}

/// Checks the number of bytes that the device has delivered, and that they do not compress.
fn assert_is_random(drawn: &Line, bytes: u64) -> Result<()> {
    assert_eq!(drawn.value("current")?, "virtio_rng.0");
    assert_eq!(drawn.number("bytes")?, bytes);
    assert!(drawn.number("packed")? >= bytes, "{drawn}");
    Ok(())
}
