//! Devices that lose their MSI-X table without the host's knowledge, as a device does that resets itself.
//!
//! Real parts: KVM, VFIO, and the devices' own tables, which the lab host's root clears through sysfs. The host's kernel
//! notices nothing (Linux commit b8f02af096b1).

use guest::{Result, Tools};
use lab::Series;

use crate::masking::{DEVICES, assert_delivered, assert_requested};
use crate::stage::{self, Passed, Stage, hold, show};

/// A table entry after a reset (PCIe r6 §7.7.2.8).
const LOST: &str = "00000000 00000000 00000000 00000001";

/// The driver writes the values that the entry already has. The host's kernel programs the device again, and the device's interrupts are
/// delivered. Entries that the device has kept are not programmed again.
pub(crate) fn an_entry_that_the_device_has_lost_is_programmed_again_when_the_driver_rewrites_it(
    stage: &Stage,
) -> Result<()> {
    let machine = stage.guest(Series::V6_12, Tools::None, &DEVICES)?;
    let mut session = stage.start(&stage.jobs(machine, &["grow:3", "hold"]))?;
    hold(&mut session)?;
    let before = DEVICES.map(|device| entry(stage, device, "1"));
    for (device, before) in DEVICES.iter().zip(before) {
        assert!(before? != LOST, "{device:?}: programmed");
        assert_eq!(entry(stage, *device, "1 reset")?, LOST);
    }

    let heard = session.ask("rewrite:1,raise:1,rewrite:0,raise:0", show)?;
    assert_delivered(stage, &heard)?;
    assert_requested(stage, 3)?;
    for device in DEVICES {
        let entry = entry(stage, device, "1")?;
        assert!(entry != LOST && entry.ends_with("00000000"), "{device:?}: {entry}");
    }
    if stage::is_ours() {
        let report = session.report_now()?;
        for device in DEVICES {
            let msix = report.msix(stage.address(device)).expect("its MSI-X is reported");
            assert_eq!(msix.domain.counters.rebinds, 1, "{device:?}: the lost one alone");
        }
    }
    session.go_on()?;
    stage::finish(session).map(drop)
}

/// The device's own table entry. `entry` may ask for its reset.
fn entry(stage: &Stage, device: Passed, entry: &str) -> Result<String> {
    let (program, address) = (guest::built("msix-entry")?, stage.address(device));
    let said = stage.host.shell(&format!("{} {address} {entry}", program.display()))?;
    Ok(said.trim().to_owned())
}
