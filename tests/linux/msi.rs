//! Devices with MSI and no MSI-X, passed through.
//!
//! Real parts: VFIO, KVM, and QEMU's ich9-ahci and qemu-xhci, which have one message and 16, with a 64-bit address and no
//! mask bits. A Linux guest without interrupt remapping uses one message at most, whatever the device has: it has the
//! ich9-ahci. Several messages end in the local APIC of a vCPU that does not run.

use guest::{Line, Result};

use crate::stage::{self, Passed, Stage, hold};

const READ_MIB: u64 = 16;
/// The SATA controller and its disk, for the modules of a guest.
pub(crate) const SATA_DISK: [&str; 2] =
    ["pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", "scsi:t-0x00"];

/// A guest reads a disk while its controller's interrupt moves from CPU to CPU. The data is right, and the host has requested one MSI
/// vector.
pub(crate) fn a_controller_with_one_message_reads_a_disk_on_every_cpu(stage: &Stage) -> Result<()> {
    let machine = stage.guest_with_drivers(Passed::Sata, &SATA_DISK)?;
    let machine = machine.job(&format!("sata:{READ_MIB}")).job("vectors").job("hold").job("sata");
    let mut session = stage.start(&machine)?;
    hold(&mut session)?;
    let address = stage.address(Passed::Sata);
    let of_host = stage.host.vectors(address)?;
    assert_eq!(of_host.requested, 1);

    let counted = session.transcript().all("interrupt").last().expect("it had interrupts").number("count")?;
    assert!(of_host.taken >= counted && counted > 0, "guest {counted}, host {}", of_host.taken);
    if stage::is_ours() {
        let report = session.report_now()?;
        let msi = report.msi(address).expect("its MSI is reported");
        assert_eq!((msi.vectors, msi.domain.host_vectors, msi.domain.live), (1, 1, 1));
        assert_eq!((msi.domain.counters.opens, msi.domain.counters.host_failures), (1, 0));
    }
    session.go_on()?;

    let seen = stage::finish(session)?;
    let disk = seen.all("sata").next().expect("the disk was read");
    let bytes = disk.number("bytes")?;
    assert_eq!(bytes, READ_MIB << 20);
    assert_eq!(Some(disk.value("sha256")?), stage.disk_digest(bytes).as_deref());
    assert_eq!((disk.number("vectors")?, disk.number("timeouts")?), (1, 0));
    for part in seen.all("sata_part") {
        assert!(part.number("count")? > 0, "no interrupt on its new CPU: {part}");
    }
    stage::say(&format!("{}: {bytes} bytes read by {counted} interrupts of one MSI message", stage.place));
    Ok(())
}

/// A USB controller raises each of its 16 messages, then of 8, and so on to one. Each sets its own bit in a local APIC,
/// and no other.
pub(crate) fn each_of_sixteen_messages_reaches_its_own_vector(stage: &Stage) -> Result<()> {
    let program = guest::built("demo")?;
    let (program, device) = (program.display(), stage.address(Passed::Usb));
    let said = stage.host.shell(&format!("{program} messages --inside {device}"))?;
    println!("{said}");
    let lines: Vec<_> = said.lines().map(Line::new).collect();
    let granted: Vec<_> = lines.iter().filter(|line| line.topic() == "granted").collect();
    assert_eq!(granted.len(), 5);
    for (line, messages) in granted.into_iter().zip([16, 8, 4, 2, 1]) {
        let numbers = ["messages", "right", "live"].map(|key| line.number(key).unwrap_or(0));
        assert_eq!(numbers, [messages; 3], "{line}");
    }
    stage::say(&format!("{}: 31 of 31 messages in grants of 16, 8, 4, 2 and 1", stage.place));
    let counted = lines.iter().find(|line| line.topic() == "counted").expect("it counts");
    assert_eq!((counted.number("opens")?, counted.number("closes")?), (5, 5));
    assert_eq!(counted.number("host_failures")?, 0);
    Ok(())
}
