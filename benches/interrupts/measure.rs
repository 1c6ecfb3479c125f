//! Pairs of measurements, and what is said of them.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

/// Every figure may fail where KVM does.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One run: how long, and how many routing tables were committed.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) time: Duration,
    pub(crate) commits: u64,
}

/// Times one piece of work that commits nothing.
pub(crate) fn time(work: impl FnOnce()) -> Sample {
    let start = Instant::now();
    work();
    Sample { time: start.elapsed(), commits: 0 }
}

/// Ours beside the floor.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) n: usize,
    pub(crate) ours_us: f64,
    /// The longest of ours.
    pub(crate) worst_us: f64,
    pub(crate) floor_us: f64,
    /// The median of the pairs' ratios.
    pub(crate) ratio: f64,
    /// Half of the pairs' ratios are between these.
    pub(crate) spread: (f64, f64),
    pub(crate) commits: u64,
    /// The most that one access waited for without its message, where several threads commit.
    pub(crate) others_commits: Option<u64>,
}

impl Figure {
    pub(crate) const HEADER: &str = "name                                n     ours us    worst us    floor us   ratio (half of the pairs)  commits (of others, waited for)";

    /// One that stands for so many accesses, of which each is asked for.
    pub(crate) fn each_of(self, accesses: f64) -> Self {
        let [ours_us, worst_us, floor_us] =
            [self.ours_us, self.worst_us, self.floor_us].map(|us| us / accesses);
        Self { ours_us, worst_us, floor_us, ..self }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            n,
            ours_us,
            worst_us,
            floor_us,
            ratio,
            spread: (low, high),
            commits,
            others_commits,
        } = self;
        write!(f, "{name:32} {n:>4} {ours_us:>11.3} {worst_us:>11.3} {floor_us:>11.3}   ")?;
        write!(f, "{ratio:>5.2} ({low:.2} to {high:.2}){commits:>14}")?;
        others_commits.map_or(Ok(()), |others| write!(f, " ({others})"))
    }
}

/// Keeps this thread on one CPU: the cost of a commit depends on which it is.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets this thread, and those that it starts, run on any of the first CPUs.
pub(crate) fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// Runs the two in turn, after one of each that does not count. Each comes first in half of the pairs: what one leaves
/// behind (a VM that goes, timers and work of the kernel's, caches) is met by the other as often as by itself.
pub(crate) fn interleave(
    name: &'static str,
    n: usize,
    runs: usize,
    mut ours: impl FnMut() -> Result<Sample>,
    mut floor: impl FnMut() -> Result<Sample>,
) -> Result<Figure> {
    ours()?;
    floor()?;
    let mut pairs = Vec::with_capacity(runs);
    for run in 0..runs {
        pairs.push(if run % 2 == 0 {
            (ours()?, floor()?)
        } else {
            let floor = floor()?;
            (ours()?, floor)
        });
    }
    let us = |sample: &Sample| sample.time.as_secs_f64() * 1e6;
    let ratios = sorted(pairs.iter().map(|(ours, floor)| us(ours) / us(floor)));
    let times = sorted(pairs.iter().map(|(ours, _)| us(ours)));
    Ok(Figure {
        name,
        n,
        ours_us: at(&times, 0.5),
        worst_us: at(&times, 1.0),
        floor_us: at(&sorted(pairs.iter().map(|(_, floor)| us(floor))), 0.5),
        ratio: at(&ratios, 0.5),
        spread: (at(&ratios, 0.25), at(&ratios, 0.75)),
        commits: pairs.iter().map(|(ours, _)| ours.commits).max().unwrap_or_default(),
        others_commits: None,
    })
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn at(sorted: &[f64], quantile: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * quantile) as usize]
}
