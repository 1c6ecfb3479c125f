//! Devices with level-triggered INTx, passed through.
//!
//! Real parts: VFIO, KVM, both IOAPICs, and QEMU's nvme, rtl8139, e1000 and e1000e. The kernel's drivers handle each interrupt; a lost one
//! shows as a timeout, as a lost packet, or as an interrupt that nobody cared for.

use guest::{Machine, Result, Transcript};
use lab::Series;

use crate::stage::{self, Passed, Stage, Where, hold};

/// The VMM's options for each irqchip.
const IRQCHIPS: [[&str; 2]; 2] = [KERNEL, SPLIT];
const KERNEL: [&str; 2] = ["--irqchip", "kernel"];
const SPLIT: [&str; 2] = ["--irqchip", "split"];
const REALTEK: &str = "pci:v000010ECd00008139sv00001AF4sd00001100bc02sc00i00";
const INTEL: &str = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00";
const E1000E: &str = "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00";

/// With `pci=nomsi`, an NVMe disk is read on two CPUs by INTx alone. The data is right, and no completion had to be polled for. Each host
/// has another irqchip.
pub(crate) fn a_disk_without_msi_is_read_right(stage: &Stage) -> Result<()> {
    const MIB: u64 = 32;
    let irqchip = if stage.place == Where::Lab(Series::V6_1) { SPLIT } else { KERNEL };
    let machine = stage.guest_with_all(&[Passed::Disk], &[])?.parameter("pci", "nomsi").arguments(irqchip);
    let machine = machine.job(&format!("nvme:{MIB}")).job("lines").job("hold");
    let mut session = stage.start(&machine)?;
    hold(&mut session)?;
    let address = stage.address(Passed::Disk);
    assert_eq!(stage.host.vectors(address)?.requested, 0, "it has no message");
    let counted = session.transcript().all("line").next().expect("it has a line").number("count")?;
    if stage::is_ours() {
        let report = session.report_now()?;
        let intx = report.passed_through(address).and_then(|device| device.intx).expect("it has INTx");
        assert!((intx.gsi, intx.enabled, intx.host_failures) == (17, true, 0), "{intx:?}");
        // The numbers differ: the host signals an interrupt that is pending when it unmasks without taking it again. Those of a line
        // that other devices of the host share cannot be told.
        assert!(counted > 0 && intx.host_interrupts != Some(0), "guest {counted}, {intx:?}");
    }
    session.go_on()?;
    let seen = stage::finish(session)?;
    let disk = seen.line("nvme")?;
    assert_eq!((disk.number("bytes")?, disk.number("polled")?), (MIB << 20, 0));
    assert_eq!(Some(disk.value("sha256")?), stage.disk_digest(MIB << 20).as_deref());
    assert_no_complaint(&seen)?;
    stage::say(&format!("{}, {}: {MIB} MiB read by {counted} INTx", stage.place, irqchip[1]));
    Ok(())
}

/// An rtl8139 and an e1000 on one line send each other packets. Each packet is answered.
pub(crate) fn two_devices_share_a_line_and_lose_no_packet(stage: &Stage) -> Result<()> {
    for irqchip in IRQCHIPS {
        let seen = stage.run(&on_one_line(stage)?.arguments(irqchip).job("ping:200").job("lines"))?;
        let counted = assert_every_packet_was_answered(&seen, 200)?;
        stage::say(&format!("{}, {}: 200 packets by {counted} INTx of one line", stage.place, irqchip[1]));
    }
    Ok(())
}

/// The same with as many packets as make 100,000 interrupts.
pub(crate) fn a_hundred_thousand_interrupts_of_one_line_are_handled(stage: &Stage) -> Result<()> {
    for irqchip in IRQCHIPS {
        let machine = on_one_line(stage)?.arguments(irqchip);
        // Rounds, because a guest that says nothing for minutes is taken for one that hangs.
        let machine = (0..20).fold(machine, |machine, _| machine.job("ping:2500"));
        let seen = stage.run(&machine.job("lines"))?;
        let counted = assert_every_packet_was_answered(&seen, 2500)?;
        assert!(counted >= 100_000, "{counted} interrupts");
        stage::say(&format!("{}, {}: 50000 packets by {counted} INTx", stage.place, irqchip[1]));
    }
    Ok(())
}

/// A driver of an e1000e takes MSI-X, INTx and MSI-X. It has interrupts with each, and the host refuses no step. KVM's irqchip has
/// more to take back: the irqfd and its resamplefd.
pub(crate) fn a_driver_takes_intx_between_msix_and_msix(stage: &Stage) -> Result<()> {
    let machine = stage.guest_with_drivers(Passed::Control, &[E1000E])?.arguments(KERNEL);
    let mut session = stage.start(&machine.job("modes").job("hold"))?;
    hold(&mut session)?;
    if stage::is_ours() {
        let report = session.report_now()?;
        let device = report.passed_through(stage.address(Passed::Control)).expect("it is reported");
        let intx = device.intx.expect("it has INTx");
        let msix = &device.msix.as_ref().expect("it has MSI-X").domain;
        assert_eq!((intx.host_failures, msix.counters.host_failures), (0, 0));
        assert!(msix.counters.opens >= 2, "{:?}", msix.counters);
        assert!(!(intx.enabled && msix.open), "VFIO has one of them at a time");
    }
    session.go_on()?;
    let seen = stage::finish(session)?;
    let modes: Vec<_> = seen.all("mode").map(|line| line.number("messages")).collect::<Result<_>>()?;
    assert_eq!(modes.len(), 3);
    assert!(modes[0] > 1 && modes[1] == 0 && modes[2] == modes[0], "{modes:?}");
    assert_no_complaint(&seen)?;
    stage::say(&format!("{}: messages {modes:?}", stage.place));
    Ok(())
}

/// The rtl8139 and the e1000 as the first device of the bus and the ninth. Their pins drive the same line. No driver has the devices between.
fn on_one_line(stage: &Stage) -> Result<Machine> {
    use Passed::{Card, Control, Disk, Doorbell, Intel, Realtek, Sata, Usb, Wide};
    let order = [Realtek, Disk, Doorbell, Wide, Control, Card, Sata, Usb, Intel];
    Ok(stage.guest_with_all(&order, &[REALTEK, INTEL])?.parameter("pci", "nomsi"))
}

/// Returns the number of interrupts of the line.
fn assert_every_packet_was_answered(seen: &Transcript, packets: u64) -> Result<u64> {
    let mut rounds = 0;
    for ping in seen.all("ping") {
        rounds += 1;
        assert_eq!((ping.number("sent")?, ping.number("received")?), (packets, packets), "{ping}");
    }
    assert!(rounds > 0);
    let lines: Vec<_> = seen.all("line").filter(|line| !line.text().contains("driver=nvme")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0].number("irq")?, lines[1].number("irq")?, "they share a line");
    assert_no_complaint(seen)?;
    let counted = lines[0].number("count")?;
    // Each device has at least one for each packet that it receives.
    assert!(counted >= rounds * packets, "{counted} interrupts for {rounds} times {packets} packets");
    Ok(counted)
}

fn assert_no_complaint(seen: &Transcript) -> Result<()> {
    for line in seen.all("line").chain(seen.all("mode")) {
        assert_eq!(line.number("unhandled")?, 0, "{line}");
    }
    Ok(())
}
