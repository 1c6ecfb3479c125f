//! The output of `lspci -vvv` in a guest for the passed-through devices.

use guest::{Result, Tools};
use lab::Series;

use crate::growth::{assert_disk_was_read, assert_every_ring_came};
use crate::stage::{Passed, Stage, finish, hold, say};

/// The class and IDs of a device, as `lspci -nn` prints them.
const DISK: &str = "[0108]";
const DOORBELL: &str = "[1af4:1110]";
/// The SATA controller, for the modules of a guest.
const CONTROLLER: &str = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";

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

/// A SATA controller has a hidden capability of 8 bytes at 0xa8. The guest reads and writes the device's registers before and
/// behind it, and has none in it. The host reads what the guest wrote.
pub(crate) fn registers_around_a_hidden_capability_are_the_devices(stage: &Stage) -> Result<()> {
    const BETWEEN: [u32; 4] = [0x94, 0xa4, 0xb0, 0xfc];
    const HIDDEN: [u32; 2] = [0xa8, 0xac];
    let address = stage.address(Passed::Sata);
    let host_registers = |offsets: &[u32]| -> Result<Vec<u64>> {
        let of = |offset: &u32| {
            let shown = stage.host.shell(&format!("setpci -s {address} {offset:x}.l"))?;
            Ok(u64::from_str_radix(shown.trim(), 16).expect("setpci prints a number"))
        };
        offsets.iter().map(of).collect()
    };
    let before = host_registers(&BETWEEN)?;
    let hidden_before = host_registers(&HIDDEN)?;
    assert_ne!(hidden_before, [0, 0], "the host sees the SATA capability");

    let machine = stage.guest_with_drivers(Passed::Sata, &[CONTROLLER])?;
    let jobs = BETWEEN.iter().chain(&HIDDEN).map(|offset| format!("registers:{offset}"));
    let machine = jobs.fold(machine, |machine, job| machine.job(&job)).job("hold");
    let mut session = stage.start(&machine)?;
    hold(&mut session)?;
    let (after, hidden_after) = (host_registers(&BETWEEN)?, host_registers(&HIDDEN)?);
    session.go_on()?;
    let seen = finish(session)?;
    let values: Vec<_> = seen
        .all("registers")
        .map(|line| Ok((line.number("found")?, line.number("now")?)))
        .collect::<Result<_>>()?;
    let inverted: Vec<_> = before.iter().map(|value| value ^ 0xffff_ffff).collect();
    let between: Vec<_> = before.iter().copied().zip(inverted.iter().copied()).collect();
    assert_eq!(values[..BETWEEN.len()], between);
    assert_eq!(values[BETWEEN.len()..], [(0, 0); 2]);
    assert_eq!((after, hidden_after), (inverted, hidden_before));
    say(&format!("{}: {} registers around a hidden capability reach the device", stage.place, BETWEEN.len()));
    Ok(())
}

/// A device's part of the output, without the number that may change: the kernel's for the interrupt.
pub(crate) fn section(listed: &str, device: &str) -> String {
    let mut parts = listed.split("\n\n");
    let part = parts.find(|part| part.lines().next().is_some_and(|line| line.contains(device)));
    let part = part.unwrap_or_else(|| panic!("lspci does not show {device}:\n{listed}"));
    let lines = part.trim().lines().map(|line| line.split(" routed to IRQ").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// MSI-X is enabled, and its table has the size and place that it has in the hardware.
fn assert_as_on_the_host(stage: &Stage, passed: Passed, shown: &str) -> Result<()> {
    let hardware = stage.host.shell(&format!("lspci -vvv -nn -s {}", stage.address(passed)))?;
    assert!(shown.contains("MSI-X: Enable+"), "MSI-X is not on:\n{shown}");
    assert_eq!(pin(shown), pin(&hardware), "Interrupt Pin in:\n{shown}\nand on the host:\n{hardware}");
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

/// The interrupt pin, `A` to `D`.
fn pin(shown: &str) -> Option<&str> {
    shown.split_once("Interrupt: pin ")?.1.get(..1)
}

/// No capability is malformed, and only those that the VMM supports are shown.
fn assert_nothing_that_does_not_work(shown: &str) {
    for wrong in ["!!!", "<chain broken>", "Address Translation Service", "Page Request", "SR-IOV", "Unknown"]
    {
        assert!(!shown.contains(wrong), "{wrong} in:\n{shown}");
    }
}
