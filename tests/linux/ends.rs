//! The VMM's exit status tells how the guest ended.

use guest::{End, Result, Tools};
use lab::Series;

use crate::stage::{self, Passed, Stage};

/// Its device is free again.
pub(crate) fn a_reboot_is_a_good_end(stage: &Stage) -> Result<()> {
    ends(stage, &[], 0)
}

/// Its device is free again.
pub(crate) fn a_triple_fault_is_a_crash(stage: &Stage) -> Result<()> {
    // `reboot=t` has Linux reboot by a triple fault.
    ends(stage, &[("reboot", "t")], stage::CRASHED)
}

/// A guest that panics is told from one that reboots, where it has the driver for pvpanic.
pub(crate) fn a_panic_has_a_status_of_its_own(stage: &Stage) -> Result<()> {
    let machine = stage.guest_with_all(&[], &["acpi:QEMU0001:"])?.end(End::Crash);
    let seen = stage.start(&machine)?.finish(stage::show)?;
    seen.line("bye")?;
    assert_eq!(seen.status.and_then(|status| status.code()), Some(stage::PANICKED), "{}", seen.last());
    Ok(())
}

fn ends(stage: &Stage, words: &[(&str, &str)], status: i32) -> Result<()> {
    if !stage.has_one_of(&[Passed::Doorbell]) {
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Doorbell])?.job("grow").end(End::Reboot);
    let machine = words.iter().fold(machine, |machine, (name, value)| machine.parameter(name, value));
    let seen = stage.start(&machine)?.finish(stage::show)?;
    assert_eq!(seen.line("doorbell")?.number("vectors")?, 64);
    seen.line("bye")?;
    assert_eq!(seen.status.and_then(|status| status.code()), Some(status), "{}", seen.last());
    assert_eq!(stage.host.vectors(stage.address(Passed::Doorbell))?.requested, 0);
    Ok(())
}
