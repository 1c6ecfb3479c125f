//! BARs of passed-through devices while a guest changes what they decode.
//!
//! Real parts: KVM, VFIO, and the devices' registers, which the guest reads without an exit while its BARs decode. The VMM's
//! process would get SIGBUS, or KVM_RUN would fail, if the guest reached a page that the host has taken away.

use std::collections::BTreeSet;
use std::ops::Range;

use guest::{Line, Result, Tools, sha256};
use lab::Series;

use crate::stage::{self, Passed, Stage};

const ONES: &str = "ffffffff";

/// Memory Space Enable toggles while another vCPU reads, the BAR is sized and moved, and the function is in D3hot. Reads give the
/// device's register or all ones.
pub(crate) fn accesses_are_as_in_hardware_while_decoding_changes(stage: &Stage) -> Result<()> {
    let machine = stage.guest(Series::V6_12, Tools::Bars, &[Passed::Disk])?;
    let mut session = stage.start(&machine.job("bars").job("hold"))?;
    stage::hold(&mut session)?;
    if stage::is_ours() {
        let report = session.report_now()?;
        assert!(report.passed_through(stage.address(Passed::Disk)).is_some(), "the VMM is alive and reports");
    }
    session.go_on()?;
    let seen = stage::finish(session)?;
    let line = seen.line("bars")?;
    assert_values(line)?;
    stage::say(&format!("{}: {line}", stage.place));
    Ok(())
}

fn assert_values(line: &Line) -> Result<()> {
    let value = line.value("value")?;
    assert_ne!(value, ONES, "{line}");
    for back in ["after_sizing", "after_move", "in_d0"] {
        assert_eq!(line.value(back)?, value, "{back}: {line}");
    }
    for gone in ["while_sized", "while_moved", "in_d3hot"] {
        assert_eq!(line.value(gone)?, ONES, "{gone}: {line}");
    }
    assert_eq!((line.number("wrong")?, line.number("saw_others")?), (0, 0), "{line}");
    assert!(line.number("saw_value")? > 0 && line.number("saw_ones")? > 0, "{line}");
    let size = u64::from_str_radix(line.value("size")?, 16).expect("a hexadecimal number");
    assert!(size >= 0xfff0_0000 && size & 0xff0 == 0, "the size and type, not what was written: {line}");
    Ok(())
}

/// The guest reads the ROM that the host's device has.
pub(crate) fn a_device_is_at_its_chosen_address_with_its_rom(stage: &Stage) -> Result<()> {
    if !stage::is_ours() {
        stage::say("not seen: the options are those of our VMM");
        return Ok(());
    }
    let machine = stage.guest(Series::V6_12, Tools::None, &[])?;
    let machine = machine.vfio(format!("{},addr=09.0,id=card", stage.address(Passed::Card)));
    let image = stage::rom_image();
    let seen = stage.run(&machine.job("rom"))?;
    let rom = seen.line("rom")?;
    assert_eq!((rom.number("bytes")?, rom.value("at")?), (image.len() as u64, "0000:00:09.0"));
    assert_eq!(rom.value("sha256")?, sha256(&image));
    stage::say(&format!("{}: {rom}", stage.place));
    Ok(())
}

/// The host's kernel records what the IOMMU maps. It maps the disk's BAR at each address that the guest gives it, and no BAR
/// of a device with `p2p=off`, which has no ROM either.
pub(crate) fn other_devices_reach_bars_where_the_guest_has_put_them(stage: &Stage) -> Result<()> {
    if !stage::is_ours() {
        stage::say("not seen: the options are those of our VMM");
        return Ok(());
    }
    const TRACE: &str = "cd /sys/kernel/tracing && test -e trace || mount -t tracefs tracefs .";
    let trace = |commands: &str| stage.host.shell(&format!("{TRACE}; cd /sys/kernel/tracing && {commands}"));
    trace("echo 1 >events/iommu/map/enable && echo 1 >events/iommu/unmap/enable && echo >trace")?;
    let machine = stage.guest(Series::V6_12, Tools::Bars, &[Passed::Disk])?;
    let machine = machine.vfio(format!("{},p2p=off,addr=1f.0,rom=off", stage.address(Passed::Card)));
    let seen = stage.run(&machine.job("bars").job("rom"))?;
    let rom = seen.line("rom")?;
    assert_eq!((rom.number("bytes")?, rom.value("at")?), (0, "0000:00:1f.0"), "a ROM that is off");
    trace("echo 0 >events/iommu/map/enable && echo 0 >events/iommu/unmap/enable")?;
    let events = trace("cat trace")?;
    let mapped = |bar: &Range<u64>| -> Vec<u64> {
        let maps = events.lines().filter_map(|line| line.split_once(" map: ")).map(|(_, event)| event);
        maps.filter(|event| number(event, "paddr=").is_some_and(|at| bar.contains(&at)))
            .filter_map(|event| number(event, "iova="))
            .collect()
    };
    let (disk, card) = (bar0(stage, Passed::Disk)?, bar0(stage, Passed::Card)?);
    let of_disk = mapped(&disk);
    let places: BTreeSet<_> = of_disk.iter().collect();
    assert!(places.len() >= 2, "the BAR was mapped at {places:x?} only:\n{events}");
    assert!(mapped(&card).is_empty(), "the card's BAR is left out:\n{events}");
    let unmapped = |iova: u64| {
        events
            .lines()
            .filter_map(|line| line.split_once(" unmap: "))
            .any(|(_, event)| number(event, "iova=") == Some(iova))
    };
    assert!(places.iter().all(|iova| unmapped(**iova)), "an address stays mapped:\n{events}");
    stage::say(&format!(
        "{}: a BAR at {:#x} of the host was mapped {} times, at {places:x?}",
        stage.place,
        disk.start,
        of_disk.len()
    ));
    Ok(())
}

/// The host's addresses of a device's BAR 0.
fn bar0(stage: &Stage, device: Passed) -> Result<Range<u64>> {
    let listed = stage.host.shell(&format!("cat /sys/bus/pci/devices/{}/resource", stage.address(device)))?;
    let mut numbers = listed.split_whitespace().map(hexadecimal);
    let (start, last) = (numbers.next().flatten(), numbers.next().flatten());
    let (start, last) = start.zip(last).unwrap_or_else(|| panic!("{device:?} has no BAR 0: {listed}"));
    Ok(start..last + 1)
}

/// The hexadecimal number behind a key.
fn number(event: &str, key: &str) -> Option<u64> {
    hexadecimal(event.split_once(key)?.1.split_whitespace().next()?)
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}
