//! The main job: a disk works through several queues, and a device's vectors grow one by one after enable.

use guest::{Line, Result, Tools, Transcript};
use lab::Series;

use crate::stage::{self, Passed, Stage, hold};

/// 64 of 64 vectors grown and received, none lost, without MSI-X ever having been off.
pub(crate) fn grows_vector_by_vector(stage: &Stage) -> Result<()> {
    let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Disk, Passed::Doorbell])?;
    let before = stage.msix_enable("ivshmem-doorbell")?.len();
    let mut session = stage.start(&machine.job("nvme").job("grow").job("vectors").job("hold"))?;
    hold(&mut session)?;
    let doorbell = session.transcript().line("doorbell")?;
    assert_eq!(doorbell.number("vectors")?, 64);
    assert_every_ring_came(doorbell)?;
    // The guest waits with all it has in use.
    assert_eq!(stage.host.vectors(stage.address(Passed::Doorbell))?.requested, 64);
    let queues_and_admin = session.transcript().all("vectors").next().map(|line| line.number("handled"));
    let of_disk = u64::from(stage.host.vectors(stage.address(Passed::Disk))?.requested);
    assert_eq!(Some(of_disk), queues_and_admin.transpose()?);
    if stage::is_ours() {
        assert_never_off(&stage.msix_enable("ivshmem-doorbell")?[before..]);
        let report = session.report_now()?;
        let domain = &report.msix(stage.address(Passed::Doorbell)).expect("its MSI-X is reported").domain;
        assert_eq!((domain.live, domain.host_vectors), (64, 64));
        assert_eq!((domain.counters.opens, domain.counters.closes), (1, 0));
        assert_eq!(domain.counters.host_failures, 0);
    }
    session.go_on()?;
    let seen = stage::finish(session)?;
    assert_disk_was_read(stage, &seen)
}

/// At least 32 MiB, right to the last bit, through more than one queue.
pub(crate) fn assert_disk_was_read(stage: &Stage, seen: &Transcript) -> Result<()> {
    let disk = seen.line("nvme")?;
    let bytes = disk.number("bytes")?;
    assert!(bytes >= 32 << 20, "only {bytes} bytes were read");
    assert_eq!(disk.value("sha256")?, stage.disk_digest(bytes));
    assert_eq!(disk.number("polled")?, 0, "commands whose interrupt was lost");
    let queues = seen.all("interrupt").filter_map(|line| line.value("name").ok());
    let queues: Vec<_> = queues.filter(|name| name.starts_with("nvme") && !name.ends_with("q0")).collect();
    let wanted = if disk.number("readers")? > 1 { 2 } else { 1 };
    assert!(queues.len() >= wanted, "interrupts of {queues:?} only");
    Ok(())
}

/// Each ring was received within a second, exactly once, and on its own vector.
pub(crate) fn assert_every_ring_came(doorbell: &Line) -> Result<()> {
    assert!(doorbell.number("rung")? > 0);
    for count in ["lost", "late", "uneven"] {
        assert_eq!(doorbell.number(count)?, 0, "{count}: {doorbell}");
    }
    assert_eq!(doorbell.number("received")?, doorbell.number("rung")?);
    Ok(())
}

/// Once it was turned on, the device's MSI-X stayed on.
pub(crate) fn assert_never_off(enable: &[bool]) {
    let first_on = enable.iter().position(|&on| on).expect("MSI-X was never turned on");
    assert!(enable[first_on..].iter().all(|&on| on), "MSI-X went off: {enable:?}");
}
