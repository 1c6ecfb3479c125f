//! The device matrix: each kind of device passed to a guest that does checked work with it, ours beside the installed QEMU's.
//!
//! One lab host has all devices. Each guest of ours and of QEMU's has one of them, and in the end one guest of ours has all.

mod devices;
mod files;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use guest::{Host, Image, Line, Machine, Monitor, Result, Session, Tools};
use lab::{At, Cache, Config, Lab, Refresh, Series};

use crate::screen::Screen;
use devices::{DEVICES, Row, Work};
use files::Files;

/// Kinds of devices, ours beside QEMU's.
#[derive(Args, Clone)]
pub(crate) struct Matrix {
    /// The kernel of the emulated host.
    #[arg(long, default_value_t = Series::V6_12)]
    host: Series,
    /// The kernel of the guests.
    #[arg(long, default_value_t = Series::V6_12)]
    guest: Series,
    /// Only rows whose name begins so.
    #[arg(long)]
    only: Vec<String>,
    /// One guest of ours with every device, and nothing else.
    #[arg(long)]
    together: bool,
    /// Write the table to this file too, as Markdown.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// What a guest made of a device.
struct Outcome {
    /// `msix`, `msi` or `intx`.
    signals: String,
    interrupts: u64,
    verdict: Result<(), String>,
}

/// The lab host with all devices, and what is on them.
struct Stage {
    host: Host,
    files: Files,
    image: Image,
    /// In the order of [`DEVICES`].
    addresses: Vec<String>,
    /// Vendor and device, as the guest's lines have them.
    ids: Vec<String>,
}

/// Runs the rows, and prints the table.
pub(crate) fn run(cli: &Matrix) -> Result<ExitCode> {
    let screen = Screen::new();
    let cache = Cache::open()?;
    screen.step(&format!("a Linux {} host with {} kinds of devices", cli.host, DEVICES.len()));
    let stage = Stage::boot(cli, &cache)?;
    let is_wanted =
        |row: &Row| cli.only.is_empty() || cli.only.iter().any(|only| row.name().starts_with(only));
    let rows = if cli.together { Vec::new() } else { Row::all() };
    let mut table = vec!["| Device | Interrupts | Ours | QEMU |".to_owned(), "|---|---|---|---|".to_owned()];
    let mut is_behind = false;
    for row in rows.into_iter().filter(is_wanted) {
        let [ours, qemu] = [Monitor::ours()?, Monitor::Qemu].map(|monitor| {
            screen.step(&format!("{} under {}", row.name(), name_of(&monitor)));
            let outcome = stage.try_row(&row, &monitor, &screen);
            screen.detail(&outcome.text());
            outcome
        });
        is_behind |= ours.verdict.is_err() && qemu.verdict.is_ok();
        table.push(format!("| {} | {} | {} | {} |", row.name(), ours.signals, ours.text(), qemu.text()));
    }
    if cli.only.is_empty() {
        screen.step("one guest of ours with every device");
        for (device, outcome) in DEVICES.iter().zip(stage.try_all(&screen)?) {
            is_behind |= outcome.verdict.is_err();
            table.push(format!(
                "| {}, with all others | {} | {} | |",
                device.name,
                outcome.signals,
                outcome.text()
            ));
        }
    }
    let table = table.join("\n");
    println!("{table}");
    if let Some(path) = &cli.write {
        std::fs::write(path, format!("{table}\n")).at("write", path)?;
    }
    Ok(if is_behind { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn name_of(monitor: &Monitor) -> &'static str {
    if *monitor == Monitor::Qemu { "QEMU" } else { "ours" }
}

impl Stage {
    fn boot(cli: &Matrix, cache: &Cache) -> Result<Self> {
        lab::provision(cache, &[cli.host, cli.guest], Refresh::Keep)?;
        let files = Files::create(cache)?;
        let mut config = Config::new(cli.host);
        for device in DEVICES {
            config =
                config.device(device.in_lab()).qemu_arguments(device.arguments(files.dir(), &files.disk()));
        }
        let lab = Lab::boot(cache, config)?;
        let mut addresses = Vec::new();
        for number in 0..DEVICES.len() {
            addresses.push(lab.bind_to_vfio(number)?);
        }
        let host = Host::Lab(Box::new(lab));
        let (mut ids, mut modaliases) = (Vec::new(), Vec::new());
        for (device, address) in DEVICES.iter().zip(&addresses) {
            let sysfs = format!("/sys/bus/pci/devices/{address}");
            let id = host.shell(&format!("echo $(cat {sysfs}/vendor):$(cat {sysfs}/device)"))?;
            ids.push(id.trim().to_owned());
            modaliases.push(host.shell(&format!("cat {sysfs}/modalias"))?.trim().to_owned());
            modaliases.extend(device.behind.iter().map(|alias| (*alias).to_owned()));
        }
        let image = Image::with_drivers(cache, cli.guest, Tools::None, &modaliases)?;
        Ok(Self { host, files, image, addresses, ids })
    }

    /// One guest with the row's device.
    fn try_row(&self, row: &Row, monitor: &Monitor, screen: &Screen) -> Outcome {
        let mut machine = Machine::new(&self.image).cpus(row.cpus).vfio(&self.addresses[row.device]);
        if let Some((name, value)) = row.parameter {
            machine = machine.parameter(name, value);
        }
        let seen = Session::start(&self.host, &machine.job(&row.device().work.job()), monitor)
            .and_then(|session| session.finish(|event| screen.event(event)));
        let checked = seen.and_then(|seen| {
            let outcome = self.outcome(row.device, seen.line(row.device().work.topic())?)?;
            seen.ended_well()?;
            Ok(outcome)
        });
        checked.unwrap_or_else(|error| Outcome::failed(&error))
    }

    /// One guest of ours with every device, and what it made of each.
    fn try_all(&self, screen: &Screen) -> Result<Vec<Outcome>> {
        let machine = Machine::new(&self.image).cpus(2).parameter("settle", 3);
        let machine = self.addresses.iter().fold(machine, Machine::vfio);
        let jobs = [Work::Disk, Work::Link, Work::Serial];
        let machine = jobs.iter().fold(machine, |machine, work| machine.job(&work.job()));
        let session = Session::start(&self.host, &machine, &Monitor::ours()?)?;
        let seen = session.finish(|event| screen.event(event))?;
        let outcome = |number: usize| {
            let work = DEVICES[number].work;
            let mut lines = seen.all(work.topic());
            let line = lines.find(|line| line.value("id").is_ok_and(|id| id == self.ids[number]));
            line.map_or_else(
                || Outcome::failed(&"the guest said nothing of it"),
                |line| self.outcome(number, line).unwrap_or_else(|error| Outcome::failed(&error)),
            )
        };
        let outcomes = (0..DEVICES.len()).map(outcome).collect();
        seen.ended_well()?;
        Ok(outcomes)
    }

    fn outcome(&self, number: usize, line: &Line) -> Result<Outcome> {
        let (bytes, digest) = (line.number("bytes")?, line.value("sha256")?);
        let interrupts = line.number("interrupts")?;
        let expected = self.files.digest(DEVICES[number].work, bytes)?;
        let verdict = match interrupts {
            _ if bytes == 0 => Err("nothing was transferred".to_owned()),
            _ if digest != expected => Err(format!("{bytes} bytes, not the right ones")),
            0 => Err("no interrupt came".to_owned()),
            _ => Ok(()),
        };
        Ok(Outcome { signals: line.value("signals")?.to_owned(), interrupts, verdict })
    }
}

impl Outcome {
    fn failed(error: &dyn std::fmt::Display) -> Self {
        let first = error.to_string().lines().next().unwrap_or_default().to_owned();
        Self { signals: "none".to_owned(), interrupts: 0, verdict: Err(first) }
    }

    fn text(&self) -> String {
        match &self.verdict {
            Ok(()) => format!("right, {} {} interrupts", self.interrupts, self.signals),
            Err(why) => format!("FAILED: {why}"),
        }
    }
}
