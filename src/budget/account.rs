//! The numbers of one budget: its limit, the used host vectors, and whether a vector waits.
//!
//! Invariant: `used` grows only in `add`, which callers precede by `beyond` or `check` under the same lock.
//! Locking: none of its own. Its budget has the lock.

use crate::counter::Increment;
/// A budget at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BudgetReport {
    /// The most host vectors allowed; `None` for any number.
    pub limit: Option<u32>,
    /// Host vectors of the VM that are set aside for the device; 0 for a VM.
    pub promised: u32,
    /// Host vectors in use. For a VM this includes promised host vectors that are not used.
    pub used: u32,
    /// The highest value of `used` so far.
    pub high_water: u32,
    /// How often this budget refused a host vector, including each retry. The VM's refusals are only in the
    /// VM's report.
    pub refusals: u64,
}

#[derive(Debug, Default)]
pub(super) struct Account {
    limit: Option<u32>,
    used: u32,
    high_water: u32,
    refusals: u64,
    /// A share was refused, and since then none was taken or returned.
    wanted: bool,
}

impl Account {
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(super) fn used(&self) -> u32 {
        self.used
    }

    pub(super) fn set_limit(&mut self, limit: Option<u32>) {
        (self.limit, self.wanted) = (limit, false);
    }

    pub(super) fn report(&self, promised: u32) -> BudgetReport {
        let Self { limit, used, high_water, refusals, .. } = *self;
        BudgetReport { limit, promised, used, high_water, refusals }
    }

    /// `used` and the limit, if `count` more would exceed the limit.
    pub(super) fn beyond(&self, count: u32) -> Option<(u32, u32)> {
        let limit = self.limit.filter(|limit| count > 0 && self.used.saturating_add(count) > *limit)?;
        Some((self.used, limit))
    }

    /// Checks that one more is allowed. A refusal is counted, and its vector waits.
    pub(super) fn check(&mut self) -> Result<(), (u32, u32)> {
        match self.beyond(1) {
            None => Ok(()),
            Some(exhausted) => {
                self.refusals.increment();
                self.wanted = true;
                Err(exhausted)
            }
        }
    }

    pub(super) fn add(&mut self, count: u32) {
        (self.used, self.wanted) = (self.used.saturating_add(count), false);
        self.high_water = self.high_water.max(self.used);
    }

    /// Returns `count`. The waiting vector finds a share at its next retry. If it no longer needs one, no
    /// other vector is released for it.
    pub(super) fn give(&mut self, count: u32) {
        self.used = self.used.saturating_sub(count);
        self.wanted &= count == 0;
    }

    pub(super) fn is_short(&self) -> bool {
        self.wanted || self.limit.is_some_and(|limit| self.used > limit)
    }
}
