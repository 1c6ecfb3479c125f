//! Ours and QEMU's of the same thing, and who goes first.

use guest::Result;

use crate::cli::Who;

/// One of each.
#[derive(Debug)]
pub(super) struct Sides<T> {
    pub(super) ours: T,
    pub(super) qemu: T,
}

impl<T> Sides<T> {
    /// Makes one and then the other, this one first. Each is told which of the two it is: 0, 1.
    pub(super) fn make(first: Who, mut make: impl FnMut(Who, usize) -> Result<T>) -> Result<Self> {
        let (one, other) = (make(first, 0)?, make(second(first), 1)?);
        Ok(match first {
            Who::Ours => Self { ours: one, qemu: other },
            Who::Qemu => Self { ours: other, qemu: one },
        })
    }

    pub(super) fn get_mut(&mut self, who: Who) -> &mut T {
        match who {
            Who::Ours => &mut self.ours,
            Who::Qemu => &mut self.qemu,
        }
    }
}

/// Who goes first of this pair. Counted by turns, by rounds of a turn, or by the pairs of a round, it is the other one each
/// time: what comes first is met by both alike.
pub(super) fn first(turn: usize, round: usize, pair: usize) -> Who {
    if (turn + round + pair).is_multiple_of(2) { Who::Ours } else { Who::Qemu }
}

fn second(first: Who) -> Who {
    match first {
        Who::Ours => Who::Qemu,
        Who::Qemu => Who::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_first_in_every_other_pair_round_and_turn() {
        assert_eq!([0, 1, 2].map(|pair| first(0, 0, pair)), [Who::Ours, Who::Qemu, Who::Ours]);
        assert_eq!([0, 1, 2].map(|round| first(0, round, 1)), [Who::Qemu, Who::Ours, Who::Qemu]);
        assert_eq!([0, 1, 2].map(|turn| first(turn, 1, 1)), [Who::Ours, Who::Qemu, Who::Ours]);
    }

    #[test]
    fn whoever_is_first_each_keeps_its_own() {
        for who in [Who::Ours, Who::Qemu] {
            let mut order = Vec::new();
            let mut sides = Sides::make(who, |who, place| {
                order.push((who, place));
                Ok(who)
            })
            .unwrap();
            assert_eq!(order, [(who, 0), (second(who), 1)]);
            assert_eq!((sides.ours, sides.qemu), (Who::Ours, Who::Qemu));
            assert_eq!(*sides.get_mut(who), who);
        }
    }
}
