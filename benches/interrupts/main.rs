//! What interrupts cost on real KVM: this crate beside the raw system calls, interleaved in one process on one
//! pinned CPU. `make bench` runs it; figures are medians and ratios, for a person and in
//! `target/bench/summary.json` (an array of name, n, ours_us, floor_us, ratio, spread, commits, cpu).

mod floor;
mod instructions;
mod measure;
mod ours;
mod registers;
mod summary;

use std::error::Error;

use measure::{Figure, Sample, interleave};
use ours::{Ahead, Ours};

/// How many times each pair is run.
const RUNS: usize = 25;
const SIZES: [usize; 3] = [64, 512, 2048];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure(),
        ["registers"] => registers::measure(&mut |figure| println!("{figure}")),
        ["instructions"] => instructions::check(),
        ["path", name, times] => instructions::run(name, times.parse()?),
        _ => Err("usage: interrupts [instructions]".into()),
    }
}

fn measure() -> Result<(), Box<dyn Error>> {
    let mut figures = Vec::new();
    for cpu in 0..2 {
        measure::pin(cpu)?;
        println!("on CPU {cpu}");
        println!("{}", Figure::HEADER);
        let mut note = |figure: Figure| {
            println!("{figure}");
            figures.push((cpu, figure));
        };
        for n in SIZES {
            note(enable("enable_one_by_one", n, Ahead::AtStart, Ours::enable_one_by_one)?);
            note(enable("enable_one_by_one_blocks", n, Ahead::InBlocks, Ours::enable_one_by_one)?);
            note(enable("enable_at_once", n, Ahead::AtStart, Ours::enable_at_once)?);
            note(turn_off(n)?);
            note(live("mask_unmask", n, Ours::mask_unmask)?);
            note(live("retarget", n, Ours::retarget)?);
        }
        registers::measure(&mut note)?;
    }
    summary::write(&figures)
}

/// A driver enables `n` vectors; the floor is `n` eventfds, `n` irqfds and one commit.
fn enable(
    name: &'static str,
    n: usize,
    ahead: Ahead,
    work: fn(&mut Ours, usize) -> Sample,
) -> Result<Figure, Box<dyn Error>> {
    interleave(
        name,
        n,
        RUNS,
        || Ok(work(&mut Ours::new(ahead)?, n)),
        || Ok(floor::enable(&floor::vm()?, n)?.0),
    )
}

/// A guest turns the capability off with `n` vectors live; the floor is `n` eventfds closed and one irqfd detached.
fn turn_off(n: usize) -> Result<Figure, Box<dyn Error>> {
    interleave(
        "turn_off",
        n,
        RUNS,
        || Ok(Ours::new(Ahead::AtStart)?.turn_off(n)),
        || floor::turn_off(&floor::vm()?, n),
    )
}

/// Something is done to one of `n` live vectors; the floor is one irqfd detached and attached.
fn live(
    name: &'static str,
    n: usize,
    work: fn(&mut Ours, usize) -> Sample,
) -> Result<Figure, Box<dyn Error>> {
    let mut ours = Ours::new(Ahead::AtStart)?;
    ours.enable_at_once(n);
    let vm = floor::vm()?;
    let (_, irqfds) = floor::enable(&vm, n)?;
    interleave(name, n, RUNS * 8, || Ok(work(&mut ours, n)), || floor::reattach(&vm, &irqfds))
}
