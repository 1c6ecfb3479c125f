//! What interrupts cost a Linux guest: ours beside the installed QEMU, in turn, in one lab host.
//!
//! A turn does one piece of [`Work`] under each monitor. The emulated host becomes slower from boot to boot, so only the two
//! of a turn are compared, and who goes first changes. All times are the guest's own, but for the boot's. A run fails
//! where a guest does, or where an interrupt of ours was lost; never for a time.

mod figure;
mod median;
mod table;
mod work;

use std::process::ExitCode;

use guest::{Error, Event, Image, Monitor, Result, Session};
use lab::{Cache, Refresh, Series};

use crate::cli::{self, Who};
use crate::screen::Screen;
use crate::stage::Stage;
use figure::Readings;
use table::Table;
pub(crate) use work::Work;

/// As many as the doorbell's register can name.
const VECTORS: u16 = 256;
/// How many lab hosts may stall in a run.
const STALLS: usize = 3;

/// Measures, prints the table, and writes it for programs.
pub(crate) fn run(cli: &cli::BenchGuest) -> Result<ExitCode> {
    let cache = Cache::open()?;
    lab::provision(&cache, &[cli.host, Series::V6_12], Refresh::Keep)?;
    let all = if cli.work.is_empty() { Work::ALL.to_vec() } else { cli.work.clone() };
    let mut bench = Bench { host: cli.host, cache, stage: None, screen: Screen::new(), stalls: 0 };
    let mut table = Table::default();
    for turn in 1..=cli.turns {
        for &work in &all {
            let [ours, qemu] = bench.turn(work, turn)?;
            table.enter(&ours, &qemu);
        }
    }
    let turns = cli.turns;
    bench.screen.step(&format!("Linux 6.12 guests on an emulated Linux {} host, {turns} turns", cli.host));
    print!("{table}");
    println!("  written to {}", table.write(cli.host)?.display());
    Ok(if table.lost_by_ours() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Bench {
    host: Series,
    cache: Cache,
    /// The lab host, until it stalls.
    stage: Option<Stage>,
    screen: Screen,
    stalls: usize,
}

impl Bench {
    /// One piece of work under our VMM and under QEMU, in the same lab host.
    fn turn(&mut self, work: Work, turn: usize) -> Result<[Readings; 2]> {
        loop {
            let stage = match self.stage.take() {
                Some(stage) => stage,
                None => {
                    self.screen.step(&format!("an emulated host on Linux {}", self.host));
                    Stage::bench(&self.cache, self.host, VECTORS)?
                }
            };
            match self.pair(&stage, work, turn) {
                Ok(readings) => {
                    self.stage = Some(stage);
                    return Ok(readings);
                }
                Err(Error::Lab(error)) if error.is_stall() && self.stalls < STALLS => {
                    self.stalls += 1;
                    self.screen.step(&format!("THE EMULATED HOST OR ITS GUEST STALLED ({error})"));
                    println!("{}", stage.host.lab()?.cpus().unwrap_or_else(|error| error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn pair(&self, stage: &Stage, work: Work, turn: usize) -> Result<[Readings; 2]> {
        if turn % 2 == 1 {
            let ours = self.guest(stage, work, turn, Who::Ours)?;
            Ok([ours, self.guest(stage, work, turn, Who::Qemu)?])
        } else {
            let qemu = self.guest(stage, work, turn, Who::Qemu)?;
            Ok([self.guest(stage, work, turn, Who::Ours)?, qemu])
        }
    }

    fn guest(&self, stage: &Stage, work: Work, turn: usize, who: Who) -> Result<Readings> {
        self.screen.step(&format!("turn {turn}, {who}: {}", work.what()));
        let image = Image::build(&self.cache, Series::V6_12, work.tools())?;
        let machine = work.machine(&image, &stage.devices);
        let monitor: Monitor = who.monitor()?;
        let seen = Session::start(&stage.host, &machine, &monitor)?.finish(|event| {
            if let Event::Said(_) = event {
                self.screen.event(event);
            }
        })?;
        seen.ended_well()?;
        work.read(&seen)
    }
}
