//! A disk works with several queues, and a device's vectors grow one by one after MSI-X is enabled.

use guest::{Line, Result, Tools, Transcript};
use lab::Series;

use crate::stage::{self, Passed, Stage, hold};

/// All 64 vectors grow and receive their interrupts. None is lost, and MSI-X stays enabled in the device.
pub(crate) fn grows_vector_by_vector(stage: &Stage) -> Result<()> {
    if !stage.has_one_of(&[Passed::Disk, Passed::Doorbell]) {
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Disk, Passed::Doorbell])?;
    let enable = stage.watch_msix_enable()?;
    let mut session = stage.start(&stage.jobs(machine, &["nvme", "grow", "vectors", "hold"]))?;
    hold(&mut session)?;
    // The guest waits with all it has in use.
    if stage.has(Passed::Disk) {
        let mut drivers = session.transcript().all("vectors");
        let disk = drivers.find(|line| line.value("driver").is_ok_and(|driver| driver == "nvme"));
        let queues_and_admin = disk.map(|line| line.number("handled")).transpose()?;
        let of_disk = u64::from(stage.host.vectors(stage.address(Passed::Disk))?.requested);
        assert_eq!(Some(of_disk), queues_and_admin);
    }
    if stage.has(Passed::Doorbell) {
        let doorbell = session.transcript().line("doorbell")?;
        assert_eq!(doorbell.number("vectors")?, 64);
        assert_every_ring_came(doorbell)?;
        assert_eq!(stage.host.vectors(stage.address(Passed::Doorbell))?.requested, 64);
    }
    if stage::is_ours() && stage.has(Passed::Doorbell) {
        enable.assert_never_off()?;
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

/// A table of 2048 entries fills eight pages. A driver's writes to it exit to the VMM, and its reads do not. The doorbell is in a BAR of
/// 256 bytes, alone in its page.
pub(crate) fn a_full_page_of_a_table_is_read_and_a_doorbell_is_rung_without_an_exit(
    stage: &Stage,
) -> Result<()> {
    if !stage.has_one_of(&[Passed::Wide]) {
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Wide])?;
    let mut session = stage.start(&machine.job("grow:24").job("hold"))?;
    hold(&mut session)?;
    if stage::is_ours() {
        let report = session.report_now()?;
        let device = report.passed_through(stage.address(Passed::Wide)).expect("the device is reported");
        let with_table = device.bars.iter().filter(|bar| bar.read_only_bytes > 0).collect::<Vec<_>>();
        let [bar] = with_table[..] else { panic!("pages of one table: {:?}", device.bars) };
        assert_eq!((bar.read_only_bytes, bar.trapped_reads), (2048 * 16, 0), "{bar:?}");
        let doorbell = device.bars.iter().find(|bar| bar.bar == 0).expect("the doorbell is in BAR 0");
        assert_eq!((doorbell.trapped_reads, doorbell.trapped_writes), (0, 0), "{doorbell:?}");
        // Each of the 24 has a message of three DWORDs, and was unmasked.
        assert!(bar.trapped_writes >= 24 * 4, "{bar:?}");
    }
    session.go_on()?;
    assert_every_ring_came(stage::finish(session)?.line("doorbell")?)
}

/// The guest reads at least 32 MiB through more than one queue, and every byte is right.
pub(crate) fn assert_disk_was_read(stage: &Stage, seen: &Transcript) -> Result<()> {
    if !stage.has(Passed::Disk) {
        return Ok(());
    }
    let disk = seen.line("nvme")?;
    let bytes = disk.number("bytes")?;
    assert!(bytes >= 32 << 20, "only {bytes} bytes were read");
    match stage.disk_digest(bytes) {
        Some(digest) => assert_eq!(disk.value("sha256")?, digest),
        None => stage::say("not compared: what was read, with a disk of which nobody knows the content"),
    }
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
