//! The kinds of work: the guest for each, and the pieces that it does.

use clap::ValueEnum;
use guest::{Image, Machine, Tools};

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

/// Vectors of the doorbell: its register can name no more.
pub(super) const VECTORS: u16 = 256;
/// Rounds of pairs that count in a turn. They are few, because pairs of other guests differ more than rounds of one pair:
/// medians of the four boots of one run were 0.42 to 0.57 of QEMU's time for growth to 64 vectors.
pub(super) const ROUNDS: usize = 4;
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

    /// What a guest does in this round; nothing, where to boot is all. The first round does everything; of the others each
    /// second pair does the long pieces, so that both guests are still the first as often.
    pub(super) fn pieces(self, round: usize) -> impl Iterator<Item = Piece> {
        let has_long = round == 0 || matches!(round % 4, 1 | 2);
        self.all().iter().copied().filter(move |piece| has_long || !piece.is_long())
    }

    fn all(self) -> &'static [Piece] {
        match self {
            Self::Boot => &[],
            Self::Vectors => &[
                Piece::Growth(64),
                Piece::BusyGrowth(64),
                Piece::Move(MOVES),
                Piece::Growth(VECTORS),
                Piece::BusyGrowth(VECTORS),
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

#[cfg(test)]
mod tests {
    use super::super::sides;
    use super::*;
    use crate::monitor::MonitorKind;

    #[test]
    fn of_the_pairs_of_each_piece_both_are_the_first_in_half() {
        for (work, turn) in [Work::Vectors, Work::Reads].into_iter().flat_map(|work| [(work, 0), (work, 1)]) {
            for piece in work.all() {
                let firsts: Vec<_> = (1..=ROUNDS)
                    .filter_map(|round| {
                        let at = work.pieces(round).position(|other| other == *piece)?;
                        Some(sides::first(turn, round, at))
                    })
                    .collect();
                let ours = firsts.iter().filter(|who| **who == MonitorKind::Ours).count();
                assert_eq!(ours * 2, firsts.len(), "{piece:?}: {firsts:?}");
                assert_eq!(firsts.len(), if piece.is_long() { ROUNDS / 2 } else { ROUNDS }, "{piece:?}");
            }
        }
    }

    #[test]
    fn every_piece_is_done_once_before_it_counts() {
        assert_eq!(Work::Vectors.pieces(0).count(), Work::Vectors.all().len());
    }
}
