//! What interrupts cost on real KVM: this crate beside the raw system calls, interleaved in one process on one
//! pinned CPU. `make bench` runs it; figures are medians and ratios, for a person and in
//! `target/bench/summary.json` (an array of name, n, ours_us, worst_us, floor_us, ratio, spread, commits, others_commits,
//! cpu), with a plot of cost against the number of vectors in `benches/cost.svg`.
//!
//! Arguments choose among the figures by the beginnings of their names, and write no files. `instructions` is another
//! matter: see there.

mod contention;
mod enable;
mod floor;
mod idle;
mod instructions;
mod latency;
mod live;
mod measure;
mod message;
mod ours;
mod plot;
mod registers;
mod software;
mod summary;
mod whole;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use measure::{Figure, Result};

/// Counts what is allocated: an access that should allocate nothing is held to it.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How many times each pair is run.
const RUNS: usize = 25;
const SIZES: [usize; 3] = [64, 512, 2048];

/// Takes figures as they come, and says beforehand which ones are wanted.
pub(crate) struct Notes {
    wanted: Vec<String>,
    cpu: usize,
    figures: Vec<(usize, Figure)>,
}

impl Notes {
    pub(crate) fn want(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| name.starts_with(wanted))
    }

    /// Takes a figure, if it is wanted.
    pub(crate) fn take(
        &mut self,
        name: &'static str,
        figure: impl FnOnce(&'static str) -> Result<Figure>,
    ) -> Result<()> {
        if self.want(name) {
            let figure = figure(name)?;
            println!("{figure}");
            self.figures.push((self.cpu, figure));
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["instructions"] => instructions::check(),
        ["path", name, times] => instructions::run(name, times.parse()?),
        _ => measure(arguments),
    }
}

fn measure(wanted: Vec<String>) -> Result<()> {
    let mut notes = Notes { wanted, cpu: 0, figures: Vec::new() };
    for cpu in 0..2 {
        measure::pin(cpu)?;
        notes.cpu = cpu;
        println!("on CPU {cpu}\n{}", Figure::HEADER);
        for n in SIZES {
            enable::measure(&mut notes, n)?;
            live::measure(&mut notes, n)?;
        }
        live::storm(&mut notes)?;
        whole::measure(&mut notes)?;
        software::measure(&mut notes)?;
        registers::measure(&mut notes)?;
        latency::measure(&mut notes)?;
        contention::measure(&mut notes)?;
        idle::measure(&notes)?;
    }
    if notes.wanted.is_empty() { summary::write(&notes.figures) } else { Ok(()) }
}
