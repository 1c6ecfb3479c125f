//! One value of our VMM and one of QEMU, and which of the two goes first.

use guest::Result;

use crate::monitor::MonitorKind;

/// A value of each monitor.
#[derive(Debug)]
pub(super) struct Sides<T> {
    pub(super) ours: T,
    pub(super) qemu: T,
}

impl<T> Sides<T> {
    /// Makes both values, that of `first` before the other. `make` gets the monitor and the position: 0, 1.
    pub(super) fn make(
        first: MonitorKind,
        mut make: impl FnMut(MonitorKind, usize) -> Result<T>,
    ) -> Result<Self> {
        let (one, other) = (make(first, 0)?, make(second(first), 1)?);
        Ok(match first {
            MonitorKind::Ours => Self { ours: one, qemu: other },
            MonitorKind::Qemu => Self { ours: other, qemu: one },
        })
    }

    pub(super) fn get_mut(&mut self, who: MonitorKind) -> &mut T {
        match who {
            MonitorKind::Ours => &mut self.ours,
            MonitorKind::Qemu => &mut self.qemu,
        }
    }
}

/// The monitor that goes first in this pair. It alternates by turn, by round of a turn and by pair of a round, so going first
/// favours neither.
pub(super) fn first(turn: usize, round: usize, pair: usize) -> MonitorKind {
    if (turn + round + pair).is_multiple_of(2) { MonitorKind::Ours } else { MonitorKind::Qemu }
}

fn second(first: MonitorKind) -> MonitorKind {
    match first {
        MonitorKind::Ours => MonitorKind::Qemu,
        MonitorKind::Qemu => MonitorKind::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_first_in_every_other_pair_round_and_turn() {
        assert_eq!(
            [0, 1, 2].map(|pair| first(0, 0, pair)),
            [MonitorKind::Ours, MonitorKind::Qemu, MonitorKind::Ours]
        );
        assert_eq!(
            [0, 1, 2].map(|round| first(0, round, 1)),
            [MonitorKind::Qemu, MonitorKind::Ours, MonitorKind::Qemu]
        );
        assert_eq!(
            [0, 1, 2].map(|turn| first(turn, 1, 1)),
            [MonitorKind::Ours, MonitorKind::Qemu, MonitorKind::Ours]
        );
    }

    #[test]
    fn whoever_is_first_each_keeps_its_own() {
        for who in [MonitorKind::Ours, MonitorKind::Qemu] {
            let mut order = Vec::new();
            let mut sides = Sides::make(who, |who, place| {
                order.push((who, place));
                Ok(who)
            })
            .unwrap();
            assert_eq!(order, [(who, 0), (second(who), 1)]);
            assert_eq!((sides.ours, sides.qemu), (MonitorKind::Ours, MonitorKind::Qemu));
            assert_eq!(*sides.get_mut(who), who);
        }
    }
}
