//! What interrupts cost a Linux guest: ours beside the installed QEMU, in pairs, in one lab host.
//!
//! The emulated host's speed changes by half within seconds, and it becomes slower from boot to boot. So there are two guests
//! at the same time, and they do the same small [piece] of work one after the other, the next one in the other order,
//! while the other guest [stands still](guests): a pair gives one ratio, and a figure is the median of all ratios. The monitor
//! that boots first and has the first of the devices changes from turn to turn. Both do each piece once before it counts. Boots are pairs too, of one guest at a time.
//!
//! All times are the guest's own, but for the boot's. A run fails where a guest does, or where an interrupt of ours was lost;
//! never for a time.

mod figure;
mod guests;
mod median;
mod piece;
mod sides;
mod table;
mod work;

use std::process::ExitCode;

use clap::Args;
use guest::{Error, Image, Result, Session};
use lab::{Cache, Refresh, Series};

use crate::monitor::MonitorKind;
use crate::screen::Screen;
use crate::stage::Stage;
use figure::{Figure, NO_WORSE, Readings};
use guests::Guests;
use sides::{Sides, first};
use table::Table;
use work::{ROUNDS, VECTORS, Work};

/// How many lab hosts may stall in a run.
const STALLS: usize = 3;

/// Times in Linux guests, beside QEMU's.
#[derive(Args, Clone)]
pub(crate) struct BenchGuest {
    /// What to measure: all of it, unless said otherwise.
    #[arg(value_enum)]
    pub(crate) work: Vec<Work>,
    /// The kernel of the emulated host.
    #[arg(long, default_value_t = Series::V6_12)]
    pub(crate) host: Series,
    /// How often guests boot for it, ours and QEMU's side by side: each time 4 pairs of most pieces
    /// of work, 2 of long ones, and 1 of boots.
    /// What differs between first and second is even after an even number.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) turns: u32,
}

/// Measures, prints the table, and writes it for programs.
pub(crate) fn run(cli: &BenchGuest) -> Result<ExitCode> {
    let cache = Cache::open()?;
    lab::provision(&cache, &[cli.host, Series::V6_12], Refresh::Keep)?;
    let all = if cli.work.is_empty() { Work::ALL.to_vec() } else { cli.work.clone() };
    let (screen, table) = (Screen::new(), Table::default());
    let mut bench = Bench { host: cli.host, cache, stage: None, screen, table, stalls: 0 };
    for turn in 0..cli.turns as usize {
        for &work in &all {
            bench.turn(work, turn)?;
        }
    }
    let Bench { screen, table, .. } = bench;
    screen.step(&format!("Linux 6.12 guests on an emulated Linux {} host, {} turns", cli.host, cli.turns));
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
    table: Table,
    stalls: usize,
}

impl Bench {
    /// All pairs of a turn. Where the lab host stalls, all of them again on a new one; those that were whole stay.
    fn turn(&mut self, work: Work, turn: usize) -> Result<()> {
        loop {
            let stage = match self.stage.take() {
                Some(stage) => stage,
                None => {
                    self.screen.step(&format!("an emulated host on Linux {}", self.host));
                    Stage::bench(&self.cache, self.host, VECTORS)?
                }
            };
            let done = match work {
                Work::Boot => self.boots(&stage, turn),
                Work::Vectors | Work::Reads => self.pieces(&stage, work, turn),
            };
            match done {
                Ok(()) => {
                    self.stage = Some(stage);
                    return Ok(());
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

    fn boots(&mut self, stage: &Stage, turn: usize) -> Result<()> {
        self.screen.step(&format!("turn {}: one boot each", turn + 1));
        let image = Image::build(&self.cache, Series::V6_12, Work::Boot.tools())?;
        let machine = Work::Boot.machine(&image, &[]);
        let first = first(turn, 0, 0);
        let pair = Sides::make(first, |who, _| {
            let seen = Session::start(&stage.host, &machine, &who.monitor()?)?.finish(|_| ())?;
            seen.ended_well()?;
            let figure = Figure { name: "boot", n: 1, unit: "s", goal: NO_WORSE };
            Ok(Readings { values: vec![(figure, seen.init_after.as_secs_f64())], ..Readings::default() })
        })?;
        self.enter(first, &pair);
        Ok(())
    }

    fn pieces(&mut self, stage: &Stage, work: Work, turn: usize) -> Result<()> {
        self.screen.step(&format!("turn {}: both boot, {}", turn + 1, work.what()));
        let image = Image::build(&self.cache, Series::V6_12, work.tools())?;
        let mut guests = Guests::boot(stage, work, &image, first(turn, 0, 0))?;
        self.screen.step("both are there");
        for round in 0..=ROUNDS {
            for (at, piece) in work.pieces(round).enumerate() {
                let first = first(turn, round, at);
                let mut pair = guests.pair(piece, first)?;
                if round == 0 {
                    // What is done for the first time. An interrupt that is lost then is lost all the same.
                    pair.ours.values.clear();
                    pair.qemu.values.clear();
                }
                self.enter(first, &pair);
            }
        }
        guests.end()
    }

    /// Enters a pair, and shows it.
    fn enter(&mut self, first: MonitorKind, pair: &Sides<Readings>) {
        self.table.enter(pair);
        for ((Figure { name, n, unit, .. }, ours), (_, qemu)) in
            pair.ours.values.iter().zip(&pair.qemu.values)
        {
            let ratio = ours / qemu;
            self.screen
                .detail(&format!("{name} {n}: {ours:.2} and {qemu:.2} {unit}, {ratio:.2}; first {first}"));
        }
    }
}
