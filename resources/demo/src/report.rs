//! The short report at the end, and whether it is a good one.

use std::fmt;

use guest::{HostVectors, Result, Transcript};

use crate::stage::Stage;

/// What became of one device's interrupts.
#[derive(Debug)]
struct DeviceRow {
    /// The guest's driver and the host's address.
    name: String,
    /// Vectors that the guest has a handler for.
    guest: u64,
    /// Vectors that the host has requested while the guest had those.
    host: HostVectors,
    /// Eventfds that the monitor had for it then, if it tells.
    eventfds: Option<u32>,
    /// Interrupts raised, received in the guest, and never received.
    raised: u64,
    received: u64,
    lost: Option<u64>,
}

/// What the guest should have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Vectors of the doorbell, where the guest has one.
    pub(crate) doorbell_vectors: Option<u16>,
}

/// The report.
#[derive(Debug)]
pub(crate) struct Report {
    head: Vec<(&'static str, String)>,
    devices: Vec<DeviceRow>,
    wrong: Vec<String>,
}

impl Report {
    /// Puts it together from what guest, host and monitor said.
    pub(crate) fn new(
        expected: Expected,
        stage: &Stage,
        transcript: &Transcript,
        host_vectors: &[HostVectors],
        monitor: Option<&guest::Report>,
    ) -> Result<Self> {
        let mut report = Self { head: Vec::new(), devices: Vec::new(), wrong: Vec::new() };
        report.guest(transcript)?;
        if transcript.line("nvme").is_ok() {
            report.disk(stage, transcript)?;
        }
        for ((address, &host), guest) in stage.devices.iter().zip(host_vectors).zip(transcript.all("vectors"))
        {
            report.device(address, host, guest, transcript)?;
            if let Some(monitor) = monitor {
                report.monitor(address, monitor);
            }
        }
        if report.devices.len() != stage.devices.len() {
            report.wrong.push("a device has no driver or no vectors in the guest".into());
        }
        if let Some(vectors) = expected.doorbell_vectors {
            report.doorbell(vectors, transcript)?;
        }
        if let Some(routes) = monitor.map(|monitor| &monitor.routes) {
            let (used, published, commits) = (routes.in_use, routes.published, routes.commits);
            let text = format!("{used} messages in use of {published} published, in {commits} commits");
            report.head.push(("routes", text));
        }
        Ok(report)
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }

    fn guest(&mut self, transcript: &Transcript) -> Result<()> {
        let init = transcript.line("init")?;
        let (kernel, cpus) = (init.value("kernel")?, init.number("cpus")?);
        let seconds = transcript.init_after.as_secs_f64();
        self.head
            .push(("guest", format!("Linux {kernel}, {cpus} vCPUs, booted in {seconds:.1} s (to init)")));
        if transcript.retries > 0 {
            self.head.push(("", "it was started twice: the first boot ended before init".into()));
        }
        for failure in transcript.all("failed") {
            self.wrong.push(format!("in the guest: {}", failure.text()));
        }
        if transcript.line("bye").is_err() {
            self.wrong.push("the guest did not end in good order".into());
        }
        if !transcript.status.is_some_and(|status| status.success()) {
            self.wrong.push(format!("the monitor: {}", transcript.status_text()));
        }
        Ok(())
    }

    fn disk(&mut self, stage: &Stage, transcript: &Transcript) -> Result<()> {
        let line = transcript.line("nvme")?;
        let (bytes, digest, readers) =
            (line.number("bytes")?, line.value("sha256")?, line.number("readers")?);
        self.head.push(("disk", format!("{bytes} bytes read by {readers} processes on as many vCPUs")));
        let verdict = match stage.disk_digest(bytes)? {
            Some(own) if own == digest => "as the file's own",
            Some(own) => {
                self.wrong.push(format!("the file's own SHA-256 is {own}"));
                "NOT the file's own"
            }
            None => "(its file is not ours to compare with)",
        };
        self.head.push(("", format!("SHA-256 {digest}, {verdict}")));
        let queues: Vec<_> =
            transcript.all("interrupt").filter_map(|line| Some((line.value("name").ok()?, line))).collect();
        let busy = queues.iter().filter(|(name, _)| !name.ends_with("q0")).count();
        let counts: Vec<_> = queues
            .iter()
            .map(|(name, line)| format!("{name} {}", line.value("count").unwrap_or("?")))
            .collect();
        self.head.push(("", format!("interrupts {}", counts.join(", "))));
        if readers > 1 && busy < 2 {
            self.wrong.push("the disk used one vector for all its queues".into());
        }
        Ok(())
    }

    fn device(
        &mut self,
        address: &str,
        host: HostVectors,
        guest: &guest::Line,
        all: &Transcript,
    ) -> Result<()> {
        let driver = guest.value("driver")?;
        let (raised, received, lost) = match driver {
            "doorbell" => {
                let line = all.line("doorbell")?;
                (line.number("rung")?, line.number("received")?, Some(line.number("lost")?))
            }
            _ => {
                let at = guest.value("at")?;
                let of_it = all.all("interrupt").filter(|line| line.value("at").is_ok_and(|of| of == at));
                let received = of_it.map(|line| line.number("count")).sum::<Result<u64>>()?;
                // Of other devices only their drivers know what should have come.
                let disk = all.line("nvme").ok().filter(|_| driver == "nvme");
                (host.taken, received, disk.map(|line| line.number("polled")).transpose()?)
            }
        };
        let count = guest.number("handled")?;
        self.devices.push(DeviceRow {
            name: format!("{driver} {address}"),
            guest: count,
            host,
            eventfds: None,
            raised,
            received,
            lost,
        });
        if let Some(lost @ 1..) = lost {
            self.wrong.push(format!("{driver}: {lost} of {raised} interrupts lost"));
        }
        if u64::from(host.requested) != count {
            let host = host.requested;
            self.wrong.push(format!("{driver}: the guest has {count} vectors, the host allocated {host}"));
        }
        Ok(())
    }

    /// What the monitor holds for the device that was entered last.
    fn monitor(&mut self, address: &str, monitor: &guest::Report) {
        let Some(row) = self.devices.last_mut() else { return };
        let Some(msix) = monitor.msix(address) else {
            return self.wrong.push(format!("{address}: the monitor knows nothing of its MSI-X"));
        };
        row.eventfds = Some(msix.domain.host_vectors);
        row.name = format!("{}, table of {}", row.name, msix.vectors);
        if u64::from(msix.domain.live) != row.guest {
            let (live, guest) = (msix.domain.live, row.guest);
            self.wrong.push(format!("{address}: {live} vectors are live, the guest has {guest}"));
        }
        if msix.domain.counters.host_failures > 0 {
            self.wrong
                .push(format!("{address}: the host refused {} steps", msix.domain.counters.host_failures));
        }
    }

    fn doorbell(&mut self, expected: u16, transcript: &Transcript) -> Result<()> {
        let line = transcript.line("doorbell")?;
        let (growth, vectors) = (line.value("growth")?, line.number("vectors")?);
        let (micros, slowest) = (line.number("grow_us")?, line.number("grow_max_us")?);
        let millis = |micros: u64| micros as f64 / 1000.0;
        self.head.push((
            "doorbell",
            format!(
                "{vectors} of {} vectors, {growth}, in {:.1} ms (the slowest {:.1} ms)",
                expected,
                millis(micros),
                millis(slowest)
            ),
        ));
        if vectors != u64::from(expected) {
            self.wrong.push(format!("the doorbell has {vectors} of {expected} vectors"));
        }
        if line.number("late")? > 0 {
            self.wrong
                .push(format!("the doorbell: {} rings came after a second or more", line.number("late")?));
        }
        if line.number("received")? != line.number("rung")? || line.number("uneven")? != 0 {
            self.wrong.push("the doorbell: not each ring came exactly once, on its own vector".into());
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, text) in &self.head {
            writeln!(f, "  {name:<9} {text}")?;
        }
        let heads = ["guest has", "host has", "eventfds", "raised", "received", "lost"];
        write!(f, "\n  {:<38}", "vectors")?;
        writeln!(f, "{}", heads.map(|head| format!("{head:>10}")).concat())?;
        for row in &self.devices {
            let eventfds = row.eventfds.map_or("?".to_owned(), |count| count.to_string());
            let lost = row.lost.map_or("?".to_owned(), |count| count.to_string());
            let (name, guest, host) = (&row.name, row.guest, row.host.requested);
            write!(f, "  {name:<38}{guest:>10}{host:>10}{eventfds:>10}")?;
            writeln!(f, "{:>10}{:>10}{lost:>10}", row.raised, row.received)?;
        }
        writeln!(f)?;
        for wrong in &self.wrong {
            writeln!(f, "  WRONG: {wrong}")?;
        }
        if self.is_good() { writeln!(f, "  All of it is right.") } else { Ok(()) }
    }
}
