//! The pieces of work that two guests do in alternation, seconds long at the most, and what to read of what they said.

use guest::{Line, Result, Transcript};

use super::figure::{Figure, HALF, NO_LESS, NO_WORSE, Readings};

/// A piece. It begins as every other of its kind, and leaves nothing behind that takes a CPU's time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    /// From one vector to so many.
    Growth(u16),
    /// The same, while the first one is rung without pause.
    BusyGrowth(u16),
    /// Vector 0 goes to another CPU so often, while it is rung without pause.
    Move(u16),
    /// Blocks of the disk with so many queues.
    Reads(u16),
}

impl Piece {
    /// Whether it takes as long as some others together.
    pub(super) fn is_long(self) -> bool {
        matches!(self, Self::Growth(vectors) | Self::BusyGrowth(vectors) if vectors > 64)
    }

    /// The job of the guest's init that does it.
    pub(super) fn job(self) -> String {
        match self {
            Self::Growth(vectors) => format!("growth:{vectors}"),
            Self::BusyGrowth(vectors) => format!("busygrowth:{vectors}"),
            Self::Move(times) => format!("busymove:{times}"),
            Self::Reads(queues) => format!("reads:{queues}"),
        }
    }

    /// What one guest gave.
    ///
    /// # Errors
    /// It did not do it, or not of this size.
    pub(super) fn read(self, seen: &Transcript) -> Result<Readings> {
        match self {
            Self::Growth(_) => growth(["grow", "grow_one"], seen.line("growth")?),
            Self::BusyGrowth(_) => growth(["grow_pounded", "grow_one_pounded"], seen.line("growth")?),
            Self::Move(_) => {
                let line = seen.line("busymove")?;
                let figure = Figure { name: "move_pounded", n: 1, unit: "ms", goal: NO_WORSE };
                Ok(rings(vec![(figure, millis(line, "move_us")?)], line)?)
            }
            Self::Reads(_) => reads(seen.line("reads")?),
        }
    }
}

/// The time of all, and the median of the vectors, which feels less of what else the machine does.
fn growth([all, one]: [&'static str; 2], line: &Line) -> Result<Readings> {
    let n = line.number("vectors")?;
    let figure = |name| Figure { name, n, unit: "ms", goal: HALF };
    let values =
        vec![(figure(all), millis(line, "grow_us")?), (figure(one), millis(line, "grow_median_us")?)];
    rings(values, line)
}

/// With the rings of a doorbell.
fn rings(values: Vec<(Figure, f64)>, line: &Line) -> Result<Readings> {
    Ok(Readings { values, raised: line.number("rung")?, lost: line.number("lost")? })
}

fn reads(line: &Line) -> Result<Readings> {
    let n = line.number("queues")?;
    let (reads, interrupts) = (line.number("reads")? as f64, line.number("interrupts")?);
    let figure = |name, unit, goal| Figure { name, n, unit, goal };
    let values = vec![
        (figure("nvme_reads", "1/s", NO_LESS), reads / (line.number("us")? as f64 / 1e6)),
        (figure("nvme_read_one", "ms", NO_WORSE), millis(line, "median_us")?),
        (figure("nvme_interrupts", "a read", NO_WORSE), interrupts as f64 / reads),
    ];
    // The driver finds a completion whose interrupt was lost when its time is up, and says so.
    let lost = line.number("polled")?;
    Ok(Readings { values, raised: interrupts + lost, lost })
}

fn millis(line: &Line, key: &str) -> Result<f64> {
    Ok(line.number(key)? as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(piece: Piece, said: &str) -> (Vec<(&'static str, u64, String)>, u64, u64) {
        let seen = Transcript { lines: vec![Line::new(said)], ..Transcript::default() };
        let Readings { values, raised, lost } = piece.read(&seen).unwrap();
        let values = values.into_iter().map(|(figure, value)| (figure.name, figure.n, value.to_string()));
        (values.collect(), raised, lost)
    }

    #[test]
    fn a_growth_gives_the_time_of_all_and_of_one_and_its_rings() {
        let said =
            "growth at=0000:00:01.0 while=quiet vectors=64 rung=70 lost=1 grow_us=225000 grow_median_us=3500";
        let value = |name, value: &str| (name, 64, value.to_owned());
        let values = vec![value("grow", "225"), value("grow_one", "3.5")];
        assert_eq!(read(Piece::Growth(64), said), (values, 70, 1));
        let values = vec![value("grow_pounded", "225"), value("grow_one_pounded", "3.5")];
        assert_eq!(read(Piece::BusyGrowth(64), said), (values, 70, 1));
    }

    #[test]
    fn a_completion_that_was_polled_is_an_interrupt_that_was_lost() {
        let said = "reads at=0000:00:02.0 queues=4 reads=100 readers=4 us=200000 median_us=4000 interrupts=60 polled=1";
        let value = |name, value: &str| (name, 4, value.to_owned());
        let values =
            vec![value("nvme_reads", "500"), value("nvme_read_one", "4"), value("nvme_interrupts", "0.6")];
        assert_eq!(read(Piece::Reads(4), said), (values, 61, 1));
    }

    #[test]
    fn a_guest_that_did_not_do_its_piece_is_an_error() {
        let seen = Transcript { lines: vec![Line::new("failed job=growth why=x")], ..Transcript::default() };
        assert!(Piece::Growth(64).read(&seen).is_err());
    }
}
