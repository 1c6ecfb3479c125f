//! The output of `lspci -vvv` in a guest for the passed-through devices.

use guest::{Result, Tools};
use lab::Series;

use crate::growth::{assert_disk_was_read, assert_every_ring_came};
use crate::stage::{Passed, Stage};

/// The class and IDs of a device, as `lspci -nn` prints them.
const DISK: &str = "[0108]";
const DOORBELL: &str = "[1af4:1110]";

/// The output is right at first, and does not change when drivers are rebound and the function is reset. The devices work afterwards.
pub(crate) fn lspci_is_right_and_stays_so(stage: &Stage) -> Result<()> {
    if !stage.has_one_of(&[Passed::Disk, Passed::Doorbell]) {
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::Lspci, &[Passed::Disk, Passed::Doorbell])?;
    let jobs = ["grow", "lspci", "rebind:1", "lspci", "flr", "grow", "lspci", "nvme", "vectors"];
    let seen = stage.run(&stage.jobs(machine, &jobs))?;
    let reset: Vec<_> = seen.all("reset").map(|line| line.text()).collect();
    if stage.has(Passed::Disk) {
        assert!(reset.iter().any(|text| text.contains("method=flr")), "no function-level reset: {reset:?}");
    }
    let listed = ["lspci-1", "lspci-2", "lspci-3"].map(|name| seen.section(name));
    let [first, reloaded, reset] = listed;
    let (first, reloaded, reset) = (first?, reloaded?, reset?);
    let devices = [(DISK, Passed::Disk), (DOORBELL, Passed::Doorbell)];
    for (device, passed) in devices.into_iter().filter(|(_, passed)| stage.has(*passed)) {
        let shown = section(&first, device);
        println!("{shown}");
        assert_as_on_the_host(stage, passed, &shown)?;
        assert_nothing_that_does_not_work(&shown);
        assert_eq!(shown, section(&reloaded, device), "after the driver was rebound");
        assert_eq!(shown, section(&reset, device), "after a reset");
    }
    if stage.has(Passed::Doorbell) {
        assert_every_ring_came(seen.line("doorbell")?)?;
    }
    assert_disk_was_read(stage, &seen)
}

/// A device's part of the output, without the numbers that may change: those of the slot and of the legacy interrupt.
pub(crate) fn section(listed: &str, device: &str) -> String {
    let mut parts = listed.split("\n\n");
    let part = parts.find(|part| part.lines().next().is_some_and(|line| line.contains(device)));
    part.unwrap_or_else(|| panic!("lspci does not show {device}:\n{listed}")).trim().to_owned()
}

/// MSI-X is enabled, and its table has the size and place that it has in the hardware.
fn assert_as_on_the_host(stage: &Stage, passed: Passed, shown: &str) -> Result<()> {
    let hardware = stage.host.shell(&format!("lspci -vvv -nn -s {}", stage.address(passed)))?;
    assert!(shown.contains("MSI-X: Enable+"), "MSI-X is not on:\n{shown}");
    for key in ["MSI-X: Enable", "Vector table: ", "PBA: "] {
        let after = |text: &str| Some(text.split_once(key)?.1.lines().next()?.to_owned());
        // The hardware's own Enable and Function Mask are the host's affair.
        let place =
            |text: &str| after(text)?.split_whitespace().find(|word| word.contains('=')).map(str::to_owned);
        let whole = |text: &str| if key.ends_with(' ') { after(text) } else { place(text) };
        assert_eq!(whole(shown), whole(&hardware), "{key} in:\n{shown}\nand on the host:\n{hardware}");
        assert!(whole(shown).is_some(), "no {key} in:\n{shown}");
    }
    Ok(())
}

/// No capability is malformed, and only those that the VMM supports are shown.
fn assert_nothing_that_does_not_work(shown: &str) {
    for wrong in ["!!!", "<chain broken>", "Address Translation Service", "Page Request", "SR-IOV", "Unknown"]
    {
        assert!(!shown.contains(wrong), "{wrong} in:\n{shown}");
    }
    assert!(!shown.contains("Interrupt: pin"), "an INTx pin in:\n{shown}");
}
