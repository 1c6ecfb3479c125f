//! The kinds of work: the guest for each, and the pieces that it does.

use clap::ValueEnum;
use guest::{Image, Machine, Tools};

use super::VECTORS;
use super::piece::Piece;

/// Something that guests do.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Work {
    /// Boot to init, with 1 vCPU and no device, one guest at a time.
    Boot,
    /// Grow the vectors of a doorbell, quiet and with one rung without pause, and move that one: 2 vCPUs.
    Vectors,
    /// Read 4 KiB at random places of a disk with one queue, and of one with four: 4 vCPUs.
    Reads,
}

/// How often the busy vector moves.
const MOVES: u16 = 50;
/// How many blocks are read of a disk at a time.
const BLOCKS: u32 = 300;

impl Work {
    pub(super) const ALL: [Self; 3] = [Self::Boot, Self::Vectors, Self::Reads];

    /// In words.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Boot => "boots",
            Self::Vectors => "to grow vectors, and to move a busy one",
            Self::Reads => "to read disks at random places",
        }
    }

    /// What its guest needs.
    pub(super) fn tools(self) -> Tools {
        match self {
            Self::Reads => Tools::Reads,
            Self::Boot | Self::Vectors => Tools::None,
        }
    }

    /// What a guest does in each round. Nothing, where to boot is all.
    pub(super) fn pieces(self) -> &'static [Piece] {
        match self {
            Self::Boot => &[],
            Self::Vectors => &[
                Piece::Growth(64),
                Piece::Growth(VECTORS),
                Piece::BusyGrowth(64),
                Piece::BusyGrowth(VECTORS),
                Piece::Move(MOVES),
            ],
            Self::Reads => &[Piece::Reads(1), Piece::Reads(4)],
        }
    }

    /// Its guest, with what it needs of a guest's share of the [devices](crate::stage::Stage::bench). One that has pieces
    /// to do waits to be asked.
    pub(super) fn machine(self, image: &Image, share: &[String]) -> Machine {
        let machine = Machine::new(image);
        let (machine, devices) = match self {
            Self::Boot => (machine.cpus(1), &[][..]),
            Self::Vectors => (waits(machine.cpus(2)), share.get(..1).unwrap_or_default()),
            Self::Reads => {
                let machine = machine.cpus(4).parameter("blocks", BLOCKS);
                (waits(machine), share.get(1..).unwrap_or_default())
            }
        };
        devices.iter().fold(machine, Machine::vfio)
    }
}

/// It waits to be asked. That it stood still meanwhile is no news to its kernel.
fn waits(machine: Machine) -> Machine {
    machine.job("hold").parameter("nosoftlockup", 1).parameter("rcupdate.rcu_cpu_stall_suppress", 1)
}
