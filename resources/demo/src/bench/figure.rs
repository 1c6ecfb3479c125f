//! What is measured, and what was asked of it.

/// One figure: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    /// Of how many: vectors, queues.
    pub(super) n: u64,
    pub(super) unit: &'static str,
    pub(super) goal: Goal,
}

/// What ours divided by QEMU's should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

pub(super) const HALF: Goal = Goal::AtMost(0.5);
/// Equal monitors differ by so much from run to run.
pub(super) const NO_WORSE: Goal = Goal::AtMost(1.05);
pub(super) const NO_LESS: Goal = Goal::AtLeast(0.95);

impl Goal {
    /// Whether a ratio reaches it, as far as a table shows: to two decimals.
    pub(super) fn is_reached(self, ratio: f64) -> bool {
        let shown = |ratio: f64| (ratio * 100.0).round();
        match self {
            Self::AtMost(most) => shown(ratio) <= shown(most),
            Self::AtLeast(least) => shown(ratio) >= shown(least),
        }
    }
}

/// What one guest gave in one piece of work.
#[derive(Debug, Default)]
pub(super) struct Readings {
    pub(super) values: Vec<(Figure, f64)>,
    /// Interrupts that were raised for certain.
    pub(super) raised: u64,
    /// Of these, never taken in the guest.
    pub(super) lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_where_the_table_shows_that_it_is() {
        assert!(Goal::AtMost(0.5).is_reached(0.504));
        assert!(!Goal::AtMost(0.5).is_reached(0.506));
        assert!(Goal::AtLeast(1.0).is_reached(0.996));
        assert!(!Goal::AtLeast(1.0).is_reached(0.99));
        assert!(!Goal::AtMost(1.0).is_reached(f64::NAN) && !Goal::AtLeast(1.0).is_reached(f64::NAN));
    }
}
