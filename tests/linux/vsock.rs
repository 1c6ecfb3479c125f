//! The VMM's socket device under Debian's driver: streams with Unix sockets of the host, and by vhost-vsock with its virtio sockets.

use guest::{Line, Result, built};

use crate::stage::{self, Stage};

const BYTES: u64 = 100_000;
const CID: u32 = 3;
/// A port of the guest, and one of the host.
const GUEST_PORT: u32 = 5000;
const HOST_PORT: u32 = 5001;
const SOCKET: &str = "/tmp/guest.sock";

/// A stream that each side opens carries bytes to its end, and back behind that. The same works after the driver was unbound and
/// bound again.
pub(crate) fn streams_go_both_ways_between_a_guest_and_unix_sockets(stage: &Stage) -> Result<()> {
    exchange(
        stage,
        &format!("cid={CID},socket={SOCKET},id=sockets"),
        &Host {
            listens: format!("unix:{SOCKET}_{HOST_PORT}"),
            connects: format!("unix:{SOCKET}:{GUEST_PORT}"),
        },
    )
}

/// The same where the host's kernel moves the packets: its programs use virtio sockets.
pub(crate) fn streams_go_both_ways_between_a_guest_and_virtio_sockets_of_its_host(
    stage: &Stage,
) -> Result<()> {
    stage.host.shell("modprobe vhost_vsock")?;
    let host = Host { listens: format!("vsock:{HOST_PORT}"), connects: format!("vsock:{CID}:{GUEST_PORT}") };
    exchange(stage, &format!("cid={CID},vhost=on,id=sockets"), &host)
}

/// The addresses that `socket-peer` has on the host.
struct Host {
    listens: String,
    connects: String,
}

fn exchange(stage: &Stage, device: &str, host: &Host) -> Result<()> {
    let peer = built("socket-peer")?;
    let (peer, Host { listens, connects }) = (peer.display(), host);
    stage.host.shell(&format!(
        "rm -f {SOCKET}_{HOST_PORT}; timeout 300 {peer} listen {listens} >/dev/null 2>&1 &"
    ))?;
    let jobs = [
        format!("listen:{GUEST_PORT}"),
        format!("exchange:{HOST_PORT}"),
        "hold".into(),
        "rebind:3".into(),
        format!("exchange:{HOST_PORT}"),
        "hold".into(),
        "vectors".into(),
    ];
    let machine = stage.guest_with_sockets()?.arguments(["--vsock", device]);
    let mut session = stage.start(&jobs.iter().fold(machine, |machine, job| machine.job(job)))?;
    for _round in 0..2 {
        stage::hold(&mut session)?;
        let seen = stage.host.shell(&format!("timeout 50 {peer} exchange {connects} {BYTES} 2>&1"))?;
        check(&Line::new(&format!("exchange {seen}")))?;
        let report = session.report_now()?;
        let sockets = report.named("sockets").expect("the device is reported");
        assert_eq!(sockets.violations.unwrap_or(0), 0, "{sockets:?}");
        session.go_on()?;
    }

    let seen = stage::finish(session)?;
    assert_eq!(seen.all("exchange").count(), 2);
    for line in seen.all("exchange") {
        check(line)?;
        assert!(line.number("interrupts")? > 0, "{line}");
        stage::say(&format!("{}: {device}: {line}", stage.place));
    }
    Ok(())
}

fn check(line: &Line) -> Result<()> {
    assert_eq!((line.number("bytes")?, line.value("received")?), (BYTES, line.value("sent")?), "{line}");
    Ok(())
}
