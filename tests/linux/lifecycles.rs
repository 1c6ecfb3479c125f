//! A device that goes through all that a guest can do to it, beside devices at work.
//!
//! Real parts: VFIO, KVM, and QEMU's nvme, ich9-ahci and ivshmem-doorbell. The guest's init has the steps (`lives`).

use guest::{Result, Tools};

use crate::growth::assert_every_ring_came;
use crate::leaks::holdings;
use crate::msi::SATA_DISK;
use crate::stage::{self, Passed, Stage, hold};

const DEVICES: [Passed; 3] = [Passed::Disk, Passed::Doorbell, Passed::Sata];

/// A few of each step.
pub(crate) fn a_device_that_is_reset_moved_and_rebound_disturbs_nobody(stage: &Stage) -> Result<()> {
    lives(stage, 1, 20)
}

/// Ten minutes of them, in rounds with other random numbers each.
pub(crate) fn ten_minutes_of_resets_moves_and_rebinding_disturb_nobody(stage: &Stage) -> Result<()> {
    lives(stage, 15, 40)
}

/// The NVMe controller is rebound, reset with its driver and without, moved, put to sleep and kept from decoding, in random order. Every
/// read of both disks is right, and no ring of the doorbell is lost. In the end the host has what it had before.
fn lives(stage: &Stage, rounds: u32, seconds: u32) -> Result<()> {
    let machine = stage.guest_with(Tools::Bars, &DEVICES, &SATA_DISK)?.job("hold");
    let mut session = stage.start(&machine)?;
    hold(&mut session)?;
    // The first round makes what is made once.
    session.ask("lives:1", stage::show)?;
    let before = holdings(stage, &session, &DEVICES)?;
    for round in 0..rounds {
        let heard = session.ask(&format!("seed:{round},lives:{seconds}"), stage::show)?;
        let failures: Vec<_> = heard.all("failed").map(|line| line.text()).collect();
        assert!(failures.is_empty(), "{failures:?}");
        let lives = heard.all("lives").last().expect("it says what it did");
        stage::say(&format!("{}: {lives}", stage.place));
        let digest = stage.disk_digest(1 << 20).expect("the disk's content is known");
        assert_eq!(
            (lives.value("sata")?, lives.value("nvme")?),
            (digest.as_str(), digest.as_str()),
            "{lives}"
        );
        for step in ["drivers", "resets", "bars", "resets_under_driver", "sata_reads", "nvme_reads"] {
            assert!(seconds < 40 || lives.number(step)? > 0, "{step}: {lives}");
        }
        assert_every_ring_came(heard.all("doorbell").last().expect("the doorbell was rung"))?;
    }
    assert_eq!(holdings(stage, &session, &DEVICES)?, before);
    session.go_on()?;
    stage::finish(session).map(drop)
}
