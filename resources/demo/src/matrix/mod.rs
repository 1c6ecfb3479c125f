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
use devices::{DEVICES, DMA_BYTES, Functions, Row, Work};
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
    /// The functions for guests of each device, in the order of [`DEVICES`].
    addresses: Vec<Vec<String>>,
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
        let mut physical = Vec::new();
        for (number, device) in DEVICES.iter().enumerate() {
            physical.push(match device.functions {
                Functions::Physical => lab.bind_to_vfio(number)?,
                Functions::Virtual { .. } => lab.address(number)?,
            });
        }
        let host = Host::Lab(Box::new(lab));
        // After the others are bound: a driver of the host takes every device that it knows.
        let mut addresses = Vec::new();
        for (device, address) in DEVICES.iter().zip(physical) {
            addresses.push(match device.functions {
                Functions::Physical => vec![address],
                Functions::Virtual { count, driver } => virtual_functions(&host, &address, count, driver)?,
            });
        }
        let (mut ids, mut modaliases) = (Vec::new(), Vec::new());
        for (device, functions) in DEVICES.iter().zip(&addresses) {
            let sysfs = format!("/sys/bus/pci/devices/{}", functions[0]);
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
        let functions = &self.addresses[row.device][..row.functions];
        let machine = Machine::new(&self.image).cpus(row.cpus);
        let mut machine = functions.iter().fold(machine, Machine::vfio);
        if let Some((name, value)) = row.parameter {
            machine = machine.parameter(name, value);
        }
        let seen = Session::start(&self.host, &machine.job(&row.device().work.job()), monitor)
            .and_then(|session| session.finish(|event| screen.event(event)));
        let checked = seen.and_then(|seen| {
            let lines = seen.all(row.device().work.topic()).collect::<Vec<_>>();
            let outcome = self.outcome(row.device, &lines, functions.len())?;
            if let Some(failed) = seen.all("failed").next() {
                return Ok(Outcome::failed(&failed.text()));
            }
            seen.ended_well()?;
            Ok(outcome)
        });
        checked.unwrap_or_else(|error| Outcome::failed(&error))
    }

    /// One guest of ours with every device, and what it made of each.
    fn try_all(&self, screen: &Screen) -> Result<Vec<Outcome>> {
        let machine = Machine::new(&self.image).cpus(2).parameter("settle", 3);
        let machine = self.addresses.iter().flatten().fold(machine, Machine::vfio);
        let jobs = [Work::Disk, Work::Link, Work::Serial, Work::Dma, Work::Codec];
        let machine = jobs.iter().fold(machine, |machine, work| machine.job(&work.job()));
        let session = Session::start(&self.host, &machine, &Monitor::ours()?)?;
        let seen = session.finish(|event| screen.event(event))?;
        let outcome = |number: usize| {
            let lines = seen.all(DEVICES[number].work.topic());
            let is_its = |line: &&Line| line.value("id").is_ok_and(|id| id == self.ids[number]);
            let lines = lines.filter(is_its).collect::<Vec<_>>();
            self.outcome(number, &lines, self.addresses[number].len())
                .unwrap_or_else(|error| Outcome::failed(&error))
        };
        let outcomes = (0..DEVICES.len()).map(outcome).collect();
        seen.ended_well()?;
        Ok(outcomes)
    }

    /// What the guest says of the work of so many functions of a device.
    fn outcome(&self, number: usize, lines: &[&Line], functions: usize) -> Result<Outcome> {
        let work = DEVICES[number].work;
        let (mut signals, mut interrupts) = (String::new(), 0);
        let mut verdict = match lines.len() {
            found if found == functions => Ok(()),
            found => Err(format!("{found} of {functions} functions did the work")),
        };
        for line in lines {
            let bytes = line.number("bytes")?;
            let taken = line.number("interrupts")?;
            let is_right = match self.files.digest(work, bytes)? {
                Some(digest) => line.value("sha256")? == digest,
                None => bytes == DMA_BYTES,
            };
            verdict = verdict.and(match taken {
                _ if bytes == 0 => Err("nothing was transferred".to_owned()),
                _ if !is_right => Err(format!("{bytes} bytes, not the right ones")),
                0 => Err("no interrupt came".to_owned()),
                _ => Ok(()),
            });
            line.value("signals")?.clone_into(&mut signals);
            interrupts += taken;
        }
        Ok(Outcome { signals, interrupts, verdict })
    }
}

/// Turns on a device's virtual functions, with its link up, and binds them to vfio-pci.
fn virtual_functions(host: &Host, address: &str, count: usize, driver: &str) -> Result<Vec<String>> {
    let lab = guest::built("lab")?;
    let script = format!(
        "set -e; device=/sys/bus/pci/devices/{address}; modprobe {driver}; \
         for try in $(seq 100); do [ -d $device/net ] && break; sleep 0.1; done; \
         ip link set $(ls $device/net) up; echo 0 >$device/sriov_drivers_autoprobe; \
         echo {count} >$device/sriov_numvfs; \
         for function in $device/virtfn*; do \
             name=$(basename $(readlink -f $function)); {} bind $name >&2; echo $name; done",
        lab.display()
    );
    Ok(host.shell(&script)?.split_whitespace().map(str::to_owned).collect())
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
