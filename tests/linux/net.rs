//! The VMM's network devices under Debian's driver, in front of taps of the host: the VMM moves the packets of one, and vhost-net those
//! of the other.

use guest::{Line, Result, sha256};

use crate::stage::{self, Stage};

const FILE_BYTES: usize = 256 << 10;
const PINGS: u64 = 20;
/// The driver is unbound and bound again between the rounds.
const ROUNDS: usize = 2;
const TAPS: [&str; 2] = ["guest-vmm", "guest-vhost"];

/// The VMM creates both taps. Each link carries pings, a file to the guest, and the same file back, before and after the driver was
/// unbound and bound again.
pub(crate) fn packets_and_a_file_go_both_ways_with_and_without_vhost(stage: &Stage) -> Result<()> {
    let content: Vec<u8> = (0..FILE_BYTES).map(|at| (at * 7 + at / 251) as u8).collect();
    let (sent, digest) = (stage.host.scratch().join("sent"), sha256(&content));
    std::fs::write(&sent, &content).unwrap();
    stage.host.shell("modprobe tun && modprobe vhost_net")?;

    let [vmm, vhost] = TAPS;
    let machine = stage.guest_with_net()?;
    let machine = machine.arguments(["--net", &format!("tap={vmm},queues=2,id=vmm")]);
    let machine = machine.arguments(["--net", &format!("tap={vhost},vhost=on,id=vhost")]);
    let transfer = format!("transfer:{PINGS}");
    let jobs = ["hold", &transfer, "hold", "rebind:3", &transfer, "vectors"];
    let mut session = stage.start(&jobs.iter().fold(machine, |machine, job| machine.job(job)))?;
    stage::hold(&mut session)?;
    serve(stage, &sent)?;
    session.go_on()?;
    stage::hold(&mut session)?;
    session.report_now()?;
    session.go_on()?;

    let seen = stage::finish(session)?;
    let transfers: Vec<_> = seen.all("transfer").collect();
    assert_eq!(transfers.len(), TAPS.len() * ROUNDS);
    for (number, transfer) in (1..).zip(transfers) {
        check(transfer, &digest)?;
        let received = std::fs::read(stage.host.scratch().join(format!("received-{number}"))).unwrap();
        assert!(received == content, "{transfer}: the host has received {} bytes", received.len());
        stage::say(&format!("{}: {transfer}", stage.place));
    }
    Ok(())
}

/// Brings the taps up, and offers the file, and a place for it, once for each transfer.
fn serve(stage: &Stage, sent: &std::path::Path) -> Result<()> {
    let (busybox, scratch, sent) = (stage.busybox(), stage.host.scratch(), sent.display());
    let (busybox, scratch) = (busybox.display(), scratch.display());
    for (tap, number) in TAPS.iter().zip(1..) {
        stage.host.shell(&format!(
            "{busybox} ip addr add 10.{number}.0.1/24 dev {tap} && {busybox} ip link set {tap} up"
        ))?;
    }
    let transfers = 1..=TAPS.len() * ROUNDS;
    let numbers: Vec<_> = transfers.map(|number| number.to_string()).collect();
    let numbers = numbers.join(" ");
    // An end that has seen the end of its input closes: the receiver's input is a pipe that does not end.
    stage.host.shell(&format!(
        "test -p /tmp/silent || {busybox} mkfifo /tmp/silent
         (for n in {numbers}; do {busybox} nc -l -p 5000 <{sent}; done) >/dev/null 2>&1 &
         (for n in {numbers}; do {busybox} nc -l -p 5001 <>/tmp/silent >{scratch}/received-$n; done) >/dev/null 2>&1 &"
    ))?;
    Ok(())
}

fn check(transfer: &Line, digest: &str) -> Result<()> {
    assert_eq!(transfer.value("driver")?, "virtio_net");
    assert_eq!((transfer.number("sent")?, transfer.number("received")?), (PINGS, PINGS), "{transfer}");
    assert_eq!(
        (transfer.number("bytes")?, transfer.value("sha256")?),
        (FILE_BYTES as u64, digest),
        "{transfer}"
    );
    assert!(transfer.number("interrupts")? > 0, "{transfer}");
    Ok(())
}
