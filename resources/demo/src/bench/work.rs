//! The pieces of work: the guest that does each, and what to read of what it said.

use std::collections::BTreeSet;

use clap::ValueEnum;
use guest::{Image, Line, Machine, Result, Tools, Transcript};

use super::figure::{Figure, Goal, Readings};
use super::median::median;

/// Something that a guest does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Work {
    /// Boot to init, with 1 vCPU and no device.
    Boot,
    /// Grow the vectors of a doorbell, quiet and with one rung without pause, and move that one: 2 vCPUs.
    Vectors,
    /// Read 4 KiB at random places of a disk with one queue, and of one with four, in turn: 4 vCPUs.
    Reads,
}

/// How often the busy vector moves.
const MOVES: u32 = 50;
/// How many blocks are read of each disk at a time, the one and the other in turn, and how often that is done in a boot:
/// what else the machine does then meets both, and a boot's figure is a median.
const READS: u32 = 400;
const READ_TURNS: usize = 7;

const HALF: Goal = Goal::AtMost(0.5);
/// Equal monitors differ by so much from turn to turn.
const NO_WORSE: Goal = Goal::AtMost(1.05);
const NO_LESS: Goal = Goal::AtLeast(0.95);

impl Work {
    pub(super) const ALL: [Self; 3] = [Self::Boot, Self::Vectors, Self::Reads];

    /// In words.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Boot => "boots",
            Self::Vectors => "boots, grows vectors, and moves a busy one",
            Self::Reads => "boots, and reads disks at random places",
        }
    }

    /// What its guest needs.
    pub(super) fn tools(self) -> Tools {
        match self {
            Self::Reads => Tools::Reads,
            Self::Boot | Self::Vectors => Tools::None,
        }
    }

    /// Its guest, with what it needs of the [devices](crate::stage::Stage::bench).
    pub(super) fn machine(self, image: &Image, devices: &[String]) -> Machine {
        let machine = Machine::new(image);
        let (machine, devices) = match self {
            Self::Boot => (machine.cpus(1), &[][..]),
            Self::Vectors => {
                let machine = machine.cpus(2).job("growths").job(&format!("busymove:{MOVES}"));
                (machine, devices.get(..1).unwrap_or_default())
            }
            Self::Reads => {
                let jobs = (0..READ_TURNS)
                    .fold(machine.cpus(4), |machine, _| machine.job(&format!("reads:{READS}")));
                (jobs, devices.get(1..).unwrap_or_default())
            }
        };
        devices.iter().fold(machine, Machine::vfio)
    }

    /// What the guest gave.
    pub(super) fn read(self, seen: &Transcript) -> Result<Readings> {
        let mut readings = Readings::default();
        match self {
            Self::Boot => {
                let figure = Figure { name: "boot", n: 1, unit: "s", goal: NO_WORSE };
                readings.values.push((figure, seen.init_after.as_secs_f64()));
            }
            Self::Vectors => {
                for line in seen.all("growth") {
                    let [all, one] = match line.value("while")? {
                        "quiet" => ["grow", "grow_one"],
                        _ => ["grow_pounded", "grow_one_pounded"],
                    };
                    let n = line.number("vectors")?;
                    let figure = Figure { name: all, n, unit: "ms", goal: HALF };
                    readings.values.push((figure, millis(line, "grow_us")?));
                    // The median of its vectors, which feels less of what else the machine does.
                    let figure = Figure { name: one, n, unit: "ms", goal: HALF };
                    readings.values.push((figure, millis(line, "grow_median_us")?));
                    rings(&mut readings, line)?;
                }
                let line = seen.line("busymove")?;
                let figure = Figure { name: "move_pounded", n: 1, unit: "ms", goal: NO_WORSE };
                readings.values.push((figure, millis(line, "move_us")?));
                rings(&mut readings, line)?;
            }
            Self::Reads => {
                let reads = seen.all("reads").map(Read::of).collect::<Result<Vec<_>>>()?;
                for n in reads.iter().map(|read| read.queues).collect::<BTreeSet<_>>() {
                    let of_disk = || reads.iter().filter(|read| read.queues == n);
                    let figure = Figure { name: "nvme_reads", n, unit: "1/s", goal: NO_LESS };
                    readings.values.push((figure, median(of_disk().map(|read| read.rate))));
                    let figure = Figure { name: "nvme_read_one", n, unit: "ms", goal: NO_WORSE };
                    readings.values.push((figure, median(of_disk().map(|read| read.one_ms))));
                    let figure = Figure { name: "nvme_interrupts", n, unit: "a read", goal: NO_WORSE };
                    readings.values.push((figure, median(of_disk().map(|read| read.interrupts_each))));
                }
                // The driver finds a completion whose interrupt was lost when its time is up, and says so.
                let lost: u64 = reads.iter().map(|read| read.lost).sum();
                readings.raised += reads.iter().map(|read| read.interrupts).sum::<u64>() + lost;
                readings.lost += lost;
            }
        }
        Ok(readings)
    }
}

/// What one `reads` of one disk gave.
struct Read {
    queues: u64,
    /// Reads in a second.
    rate: f64,
    one_ms: f64,
    interrupts: u64,
    interrupts_each: f64,
    /// Interrupts that never came.
    lost: u64,
}

impl Read {
    fn of(line: &Line) -> Result<Self> {
        let (reads, interrupts) = (line.number("reads")? as f64, line.number("interrupts")?);
        Ok(Self {
            queues: line.number("queues")?,
            rate: reads / (line.number("us")? as f64 / 1e6),
            one_ms: millis(line, "median_us")?,
            interrupts,
            interrupts_each: interrupts as f64 / reads,
            lost: line.number("polled")?,
        })
    }
}

fn millis(line: &Line, key: &str) -> Result<f64> {
    Ok(line.number(key)? as f64 / 1000.0)
}

/// Counts the rings of a doorbell.
fn rings(readings: &mut Readings, line: &Line) -> Result<()> {
    readings.raised += line.number("rung")?;
    readings.lost += line.number("lost")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boots_reads_are_the_medians_of_its_turns_for_each_disk() {
        let said = |queues: u64, us: u64, interrupts: u64, polled: u64| {
            Line::new(&format!(
                "reads at=0000:00:01.0 queues={queues} reads=100 readers=4 us={us} median_us={} \
                 interrupts={interrupts} polled={polled}",
                us / 50
            ))
        };
        let lines = vec![
            said(1, 100_000, 50, 0),
            said(4, 50_000, 100, 0),
            said(1, 10_000_000, 60, 1),
            said(4, 25_000, 100, 0),
            said(1, 200_000, 70, 0),
            said(4, 100_000, 100, 0),
        ];
        let readings = Work::Reads.read(&Transcript { lines, ..Transcript::default() }).unwrap();
        let values: Vec<_> = readings
            .values
            .iter()
            .map(|(figure, value)| (figure.name, figure.n, value.to_string()))
            .collect();
        let value = |name, n, value: &str| (name, n, value.to_owned());
        assert_eq!(
            values,
            [
                value("nvme_reads", 1, "500"),
                value("nvme_read_one", 1, "4"),
                value("nvme_interrupts", 1, "0.6"),
                value("nvme_reads", 4, "2000"),
                value("nvme_read_one", 4, "1"),
                value("nvme_interrupts", 4, "1"),
            ]
        );
        assert_eq!((readings.raised, readings.lost), (481, 1));
    }
}
