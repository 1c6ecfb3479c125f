//! The pieces of work: the guest that does each, and what to read of what it said.

use clap::ValueEnum;
use guest::{Image, Line, Machine, Result, Tools, Transcript};

use super::figure::{Figure, Goal, Readings};

/// Something that a guest does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Work {
    /// Boot to init, with 1 vCPU and no device.
    Boot,
    /// Grow the vectors of a doorbell, quiet and with one rung without pause, and move that one: 2 vCPUs.
    Vectors,
    /// Read 4 KiB at random places of a disk with one queue, and of one with four: 4 vCPUs.
    Reads,
}

/// How often the busy vector moves.
const MOVES: u32 = 50;
/// How many blocks are read of each disk.
const READS: u32 = 2000;

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
                (machine.cpus(4).job(&format!("reads:{READS}")), devices.get(1..).unwrap_or_default())
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
                for line in seen.all("reads") {
                    let n = line.number("queues")?;
                    let reads = line.number("reads")? as f64;
                    let seconds = line.number("us")? as f64 / 1e6;
                    let interrupts = line.number("interrupts")?;
                    let figure = Figure { name: "nvme_reads", n, unit: "1/s", goal: NO_LESS };
                    readings.values.push((figure, reads / seconds));
                    let figure = Figure { name: "nvme_read_one", n, unit: "ms", goal: NO_WORSE };
                    readings.values.push((figure, millis(line, "median_us")?));
                    let figure = Figure { name: "nvme_interrupts", n, unit: "a read", goal: NO_WORSE };
                    readings.values.push((figure, interrupts as f64 / reads));
                    // The driver finds a completion whose interrupt was lost when its time is up, and says so.
                    let lost = line.number("polled")?;
                    readings.raised += interrupts + lost;
                    readings.lost += lost;
                }
            }
        }
        Ok(readings)
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
