//! A guest that means harm: all its CPUs access everything at random, by the module `hostile`.
//!
//! The guest may crash, panic or hang by what it does. Its VMM may not: it answers all the while, ends with a status for that, gives
//! back what it has of the host, and leaves the devices in good order. A seed repeats what each CPU does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guest::{Event, Result, Session, Tools};
use lab::{At, Series};

use crate::growth::assert_every_ring_came;
use crate::stage::{self, Passed, Stage, hold};

/// Operations of each CPU in one boot, and in one of many.
const OPERATIONS: u32 = 30_000;
const OPERATIONS_OF_MANY: u32 = 150_000;
/// The longest that a guest is let hang.
const SECONDS: &str = "100";
/// Becomes the VMM, which is ended when this time is up.
const AT_MOST: &str = "(sleep $0; kill -TERM $$) >/dev/null 2>&1 & exec \"$@\"";
/// Status of a VMM that a signal has ended, because its guest hung.
const TERMINATED: i32 = 128 + 15;
/// The most lines that a guest may have the VMM write.
const MESSAGES_MAX: usize = 400;
const DISK_BYTES: usize = 4 << 20;
const DEVICES: [Passed; 2] = [Passed::Doorbell, Passed::Wide];

/// One boot, and then a guest that works with the same devices.
pub(crate) fn random_accesses_to_everything_end_in_good_order(stage: &Stage) -> Result<()> {
    let disk = disk(stage)?;
    let mut attack = Attack::start(stage, &disk, 1, OPERATIONS)?;
    let writes = attack.watch()?;
    attack.end()?;
    assert!(writes > 100, "{writes} writes to BARs");
    // The doorbells have all their vectors again, and ring.
    let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Doorbell])?.job("grow");
    let seen = stage::finish(stage.start(&machine)?)?;
    let doorbell = seen.line("doorbell")?;
    assert_eq!(doorbell.number("vectors")?, 64);
    assert_every_ring_came(doorbell)
}

/// Boot after boot, beside a guest that reads a disk and rings a device.
pub(crate) fn ten_minutes_of_random_accesses_disturb_no_other_guest(stage: &Stage) -> Result<()> {
    let disk = disk(stage)?;
    let report = stage.host.scratch().join("witness.json");
    let witness = stage.guest(Series::V6_12, Tools::None, &[Passed::Disk, Passed::Card])?;
    let mut witness = stage.start(&witness.report(report).job("hold"))?;
    hold(&mut witness)?;
    let (began, mut rounds) = (Instant::now(), 0);
    for seed in 1.. {
        let mut attack = Attack::start(stage, &disk, seed, OPERATIONS_OF_MANY)?;
        let end = Instant::now() + Duration::from_secs(40);
        while Instant::now() < end {
            assert_undisturbed(stage, &mut witness)?;
            rounds += 1;
        }
        let _ = attack.watch()?;
        attack.end()?;
        if began.elapsed() > Duration::from_secs(600) {
            stage::say(&format!("{seed} boots beside {rounds} rounds of the other guest"));
            break;
        }
    }
    witness.go_on()?;
    stage::finish(witness).map(drop)
}

/// A disk's content is right and no ring is lost.
fn assert_undisturbed(stage: &Stage, witness: &mut Session<'_>) -> Result<()> {
    let heard = witness.ask("nvme:1,grow", stage::show)?;
    let failures: Vec<_> = heard.all("failed").map(|line| line.text()).collect();
    assert!(failures.is_empty(), "{failures:?}");
    let nvme = heard.line("nvme")?;
    let digest = stage.disk_digest(nvme.number("bytes")?).expect("the disk's content is known");
    assert_eq!((nvme.value("sha256")?, nvme.number("polled")?), (digest.as_str(), 0), "{nvme}");
    assert_every_ring_came(heard.line("doorbell")?)
}

/// A guest that does so.
struct Attack<'stage> {
    stage: &'stage Stage,
    session: Session<'stage>,
    seed: u64,
}

impl<'stage> Attack<'stage> {
    fn start(stage: &'stage Stage, disk: &Path, seed: u64, operations: u32) -> Result<Self> {
        let machine = stage.guest_with_each_kind(disk)?.started_by(["sh", "-c", AT_MOST, SECONDS]);
        let machine = machine.parameter("seed", seed).job("hold").job(&format!("hostile:{operations}"));
        let mut session = stage.start(&machine)?;
        hold(&mut session)?;
        session.go_on()?;
        session.until("random-accesses", stage::show)?;
        Ok(Self { stage, session, seed })
    }

    /// The VMM answers while the guest does what it does, or has ended by it. Gives the writes that had to be emulated in the BARs of
    /// the doorbells.
    fn watch(&mut self) -> Result<u64> {
        let alive = format!("kill -0 {}", self.session.pid()?);
        let mut writes = 0;
        for _ in 0..5 {
            std::thread::sleep(Duration::from_secs(1));
            let answered = self.session.report_now();
            if self.stage.host.shell(&alive).is_err() {
                break;
            }
            let devices = answered?.devices;
            writes = devices.iter().flat_map(|device| &device.bars).map(|bar| bar.trapped_writes).sum();
        }
        Ok(writes)
    }

    /// The end is one of those that a guest may have, and nothing is left of it on the host.
    fn end(self) -> Result<()> {
        let mut messages = 0;
        let seen = self.session.finish(|event| {
            messages += usize::from(matches!(event, Event::Message(_)));
            stage::show(event);
        })?;
        let code = seen.status.and_then(|status| status.code());
        let how = match code {
            Some(0) => "went to its end",
            Some(stage::CRASHED) => "crashed",
            Some(stage::PANICKED) => "panicked",
            Some(TERMINATED) => "hung",
            _ => panic!("seed {}: the VMM ended with {}: {}", self.seed, seen.status_text(), seen.last()),
        };
        let done =
            seen.line("hostile").map_or_else(|_| "nothing said".to_owned(), |line| line.text().to_owned());
        stage::say(&format!("seed {}: the guest {how}; {done}; {messages} messages", self.seed));
        let panicked = seen.console.iter().find(|line| line.contains("panicked at"));
        assert_eq!(panicked, None, "the VMM panicked");
        assert!(messages <= MESSAGES_MAX, "{messages} messages");
        for device in DEVICES {
            let left = self.stage.host.vectors(self.stage.address(device))?.requested;
            assert_eq!(left, 0, "vectors of {device:?}");
        }
        Ok(())
    }
}

fn disk(stage: &Stage) -> Result<PathBuf> {
    let path = stage.host.scratch().join("hostile.img");
    std::fs::write(&path, vec![0; DISK_BYTES]).at("write", &path)?;
    Ok(path)
}
