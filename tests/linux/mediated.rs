//! Mediated functions with an IMS, whose slots a device of the host signals, under an unchanged Linux driver: on a host with dynamic MSI-X,
//! and on one without.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use guest::{MediatedSlots, Report, Result, Session, Tools};
use lab::Series;

use crate::ims::{assert_every_ring_came, assert_went_through_all};
use crate::stage::{self, Passed, Stage, Where, hold};

/// All vectors of the doorbell but the mediator's own.
const SLOTS: u64 = 63;
/// Longer than the release delay of a freed slot's host vector.
const GIVEN_BACK: Duration = Duration::from_secs(20);

/// Two functions of one device, each through all that can happen to its slots, then reset with slots in use; the driver lets
/// go of them and takes them again. At the end the host has every vector back, with MSI-X on all the time.
pub(crate) fn slots_of_two_functions_of_one_device_come_move_and_go(stage: &Stage) -> Result<()> {
    if !stage.has_one_of(&[Passed::Doorbell]) || !stage::is_ours() {
        return Ok(());
    }
    let [first, second] = [24, 16];
    let enable = stage.watch_msix_enable()?;
    let jobs = ["ims", "imsreset:10", "rebind:1", "imsreset:10", "hold"];
    let mut session = start(stage, &[first, second], &jobs)?;
    hold(&mut session)?;
    let seen: Vec<_> = session.transcript().all("ims").cloned().collect();
    assert_eq!(seen.len(), 2);
    for (ims, slots) in seen.iter().zip([first, second]) {
        assert_went_through_all(ims, slots, 0)?;
    }
    let resets: Vec<_> = session.transcript().all("imsreset").cloned().collect();
    assert_eq!(resets.len(), 4);
    resets.iter().try_for_each(assert_every_ring_came)?;
    assert_given_back(stage)?;
    enable.assert_never_off()?;
    let report = session.report_now()?;
    for function in mediated(&report) {
        assert_eq!((function.pool.counters.opens, function.pool.counters.closes), (1, 0));
        assert_eq!(function.domain.counters.host_failures, 0);
    }
    session.go_on()?;
    stage::finish(session)?;
    assert_eq!(requested(stage)?, 0);
    Ok(())
}

/// One slot is rung without pause while all the others come, move and go: none of its rings is lost, nor one of theirs. The
/// host's vectors come and go with them, by the host's own list.
pub(crate) fn slots_grow_while_one_is_rung_and_no_ring_is_lost(stage: &Stage) -> Result<()> {
    if !stage.has_one_of(&[Passed::Doorbell]) || !stage::is_ours() {
        return Ok(());
    }
    let rings = 1000;
    let enable = stage.watch_msix_enable()?;
    let mut session = start(stage, &[SLOTS], &["hold", &format!("imspound:{rings}"), "hold"])?;
    hold(&mut session)?;
    let at_first = set_aside(stage)?;
    assert_eq!((requested(stage)?, at_first), (0, set_aside_at_first(stage).unwrap_or(at_first)));
    let (mut requested, held) = while_counting(stage, || {
        session.go_on()?;
        hold(&mut session)
    });
    held?;
    let pounded = session.transcript().line("imspound")?.clone();
    let (rung, lost) = (pounded.number("rung")?, pounded.number("lost")?);
    let first = pounded.number("first_rung")?;
    let times = session.transcript().line("imspounded")?.number("times")?;
    requested.dedup();
    stage::say(&format!(
        "{}: {lost} of {rung} rings lost, {first} of them of one slot while {} others came and went {times} times; \
         {} us to allocate one; host vectors set aside {at_first}, requested {requested:?}",
        stage.place,
        SLOTS - 1,
        pounded.number("allocate_us")? / pounded.number("allocations")?,
    ));
    assert!(first >= rings, "{first} rings");
    assert_every_ring_came(&pounded)?;
    enable.assert_never_off()?;

    // Never more than there are slots; and where the host gives them one by one, as many as were wanted.
    assert!(requested.iter().all(|count| u64::from(*count) <= SLOTS), "{requested:?}");
    assert_eq!(set_aside(stage)?, SLOTS + 1);
    let report = session.report_now()?;
    let [function] = mediated(&report)[..] else { panic!("one function") };
    assert_eq!(u64::from(function.domain.counters.high_water), SLOTS);
    assert!(function.domain.counters.binds >= SLOTS, "{:?}", function.domain.counters);
    assert_eq!((function.pool.counters.opens, function.pool.counters.closes), (1, 0));
    stage::say(&format!("{}: {:?}", stage.place, function.pool.counters));
    assert_given_back(stage)?;
    session.go_on()?;
    stage::finish(session).map(drop)
}

/// A guest with functions of these numbers of slots of the doorbell.
fn start<'stage>(stage: &'stage Stage, slots: &[u64], jobs: &[&str]) -> Result<Session<'stage>> {
    let host = stage.address(Passed::Doorbell);
    let machine = stage.guest(Series::V6_12, Tools::None, &[])?;
    let machine = slots.iter().fold(machine, |machine, slots| {
        machine.arguments(["--device", &format!("ims-mediated,host={host},slots={slots}")])
    });
    stage.start(&jobs.iter().fold(machine, |machine, job| machine.job(job)))
}

fn mediated(report: &Report) -> Vec<&MediatedSlots> {
    report.mediated().collect()
}

fn requested(stage: &Stage) -> Result<u32> {
    Ok(stage.host.vectors(stage.address(Passed::Doorbell))?.requested)
}

/// The number of the device's interrupts that the host has allocated, requested or not.
fn set_aside(stage: &Stage) -> Result<u64> {
    let list = format!("ls /sys/bus/pci/devices/{}/msi_irqs | wc -l", stage.address(Passed::Doorbell));
    let count = stage.host.shell(&list)?;
    Ok(count.trim().parse().expect("a number of lines"))
}

/// Before a slot is in use: a host that gives interrupts one by one has set aside the mediator's own, the other all that the
/// device can have.
fn set_aside_at_first(stage: &Stage) -> Option<u64> {
    match stage.place {
        Where::Lab(Series::V6_12) => Some(1),
        Where::Lab(Series::V6_1) => Some(SLOTS + 1),
        // It depends on the kernel.
        Where::Own => None,
    }
}

/// How many are requested, looked up again and again while something else is done; for half a minute at most.
fn while_counting<T>(stage: &Stage, work: impl FnOnce() -> T) -> (Vec<u32>, T) {
    let done = stage.host.scratch().join("counted");
    let _ = fs::remove_file(&done);
    let (address, flag) = (stage.address(Passed::Doorbell), done.display());
    let script = format!(
        "end=$(($(date +%s) + 30)); until [ -e {flag} ] || [ $(date +%s) -gt $end ]; do \
         grep -c 'vfio-msix.*({address})' /proc/interrupts; sleep 0.1; done"
    );
    thread::scope(|scope| {
        let counting = scope.spawn(|| stage.host.shell(&script));
        let result = work();
        fs::write(&done, []).expect("a file in the shared directory");
        let counted = counting.join().expect("counting").expect("counts");
        (counted.lines().filter_map(|line| line.trim().parse().ok()).collect(), result)
    })
}

/// The guest has freed every slot. Waits until the host has released every vector.
fn assert_given_back(stage: &Stage) -> Result<()> {
    let start = Instant::now();
    while requested(stage)? > 0 {
        assert!(start.elapsed() < GIVEN_BACK, "{} host vectors are still requested", requested(stage)?);
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
