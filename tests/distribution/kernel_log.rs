//! What the guest's kernel complains about, beside the same guest under QEMU.

use std::collections::BTreeSet;

use guest::{Result, Terminal};
use lab::Series;

use crate::debian::Stage;

/// The kernel warns of nothing that it does not warn of under QEMU, which boots the same disk with devices of the same kinds.
pub(crate) fn has_no_warning_that_is_not_in_qemus_guest() -> Result<()> {
    let stage = Stage::boot(Series::V6_12)?;
    let ours = warnings(stage.log_in("vhost=on")?)?;
    let qemus = warnings(stage.log_in_under_qemu()?)?;
    println!("under QEMU: {qemus:#?}\nours: {ours:#?}");
    let more: Vec<_> = ours.difference(&qemus).collect();
    assert!(more.is_empty(), "only under our VMM: {more:#?}");
    Ok(())
}

/// The messages, without times and digits: a device may have another address.
fn warnings(mut guest: Terminal) -> Result<BTreeSet<String>> {
    guest.run("systemctl is-system-running --wait")?;
    let log = guest.run("dmesg --notime --level warn,err,crit,alert,emerg")?;
    assert!(guest.end("poweroff")?.success());
    let without_digits = |line: &str| line.chars().filter(|character| !character.is_ascii_digit()).collect();
    Ok(log.lines().filter(|line| !line.is_empty()).map(without_digits).collect())
}
