//! The vectors whose state in the host may differ from what their store says.
//!
//! Invariant: a vector is here from before the first host call of a sync until its last step has succeeded. No vector is therefore
//! forgotten if the host refuses a step, if the vector is deferred, or if a backend or router panics. Vectors in the work list at the
//! beginning of a call were left there by a panic, and are worked on again. Locking: none of its own; it is part of a domain's host.

use std::collections::BTreeMap;
use std::time::Instant;

use super::error::DomainError;
use crate::counter::Increment;
use crate::delivery::Vector;
use crate::interrupt::Target;

/// A vector of the sync under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) vector: Vector,
    /// The target that it is to be attached to, once that is known.
    pub(super) target: Option<Target>,
}

/// Why a vector has a step left.
#[derive(Debug)]
pub(super) enum Later {
    /// The host refused a step. A vector that is relayed for that reason is here too.
    Failed(DomainError),
    /// An embedder's thread binds it.
    Deferred,
    /// The guest has freed it. It keeps its host vector until its release delay is over, at this time.
    Expires(Instant),
}

/// The vectors of the sync under way, and those with a step left.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Kept between calls for its memory.
    work: Vec<Work>,
    later: BTreeMap<Vector, Later>,
    failed: usize,
    deferred: usize,
}

impl Owed {
    /// Begins a sync of these vectors and of the vectors that a panic has left.
    pub(super) fn begin(&mut self, vectors: impl Iterator<Item = Vector>) {
        let left = self.work.len();
        self.work.iter_mut().for_each(|work| work.target = None);
        self.work.extend(vectors.map(|vector| Work { vector, target: None }));
        if left > 0 {
            self.work.sort_by_key(|work| work.vector);
            self.work.dedup_by_key(|work| work.vector);
        }
    }

    /// Ends the sync. Each vector of it has no step left, or is in the other list.
    pub(super) fn end(&mut self) {
        self.work.clear();
    }

    /// The vectors of the sync under way. Between calls they are the vectors that a panic has left.
    pub(super) fn work(&self) -> &[Work] {
        &self.work
    }

    pub(super) fn work_mut(&mut self) -> &mut Vec<Work> {
        &mut self.work
    }

    /// Whether no vector waits for a later call.
    pub(super) fn none_later(&self) -> bool {
        self.later.is_empty()
    }

    pub(super) fn insert(&mut self, vector: Vector, later: Later) {
        match later {
            Later::Failed(_) => self.failed.increment(),
            Later::Deferred => self.deferred.increment(),
            Later::Expires(_) => {}
        }
        let before = self.later.insert(vector, later);
        self.uncount(before.as_ref());
    }

    pub(super) fn remove(&mut self, vector: Vector) -> Option<Later> {
        let later = self.later.remove(&vector);
        self.uncount(later.as_ref());
        later
    }

    /// Removes the vectors for which `keep` is false.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Vector) -> bool) {
        let gone: Vec<_> = self.later.keys().copied().filter(|vector| !keep(*vector)).collect();
        gone.into_iter().for_each(|vector| drop(self.remove(vector)));
    }

    /// Defers each vector of the sync under way that has a target and for which `is_later` is true.
    pub(super) fn defer(&mut self, is_later: impl Fn(Vector) -> bool) {
        let mut work = std::mem::take(&mut self.work);
        for work in work.iter_mut().filter(|work| work.target.is_some() && is_later(work.vector)) {
            work.target = None;
            self.insert(work.vector, Later::Deferred);
        }
        self.work = work;
    }

    /// Removes all deferred vectors.
    pub(super) fn forget_deferred(&mut self) {
        if self.deferred > 0 {
            self.later.retain(|_, later| !matches!(later, Later::Deferred));
            self.deferred = 0;
        }
    }

    fn uncount(&mut self, later: Option<&Later>) {
        match later {
            Some(Later::Failed(_)) => self.failed = self.failed.saturating_sub(1),
            Some(Later::Deferred) => self.deferred = self.deferred.saturating_sub(1),
            Some(Later::Expires(_)) | None => {}
        }
    }

    /// How many vectors have a step to be tried again, including those that a panic has left.
    pub(super) fn failed(&self) -> usize {
        self.failed.saturating_add(self.work.len())
    }

    /// The vectors that [`Owed::failed`] counts: first the refused ones, ascending.
    pub(super) fn failed_vectors(&self) -> impl Iterator<Item = Vector> {
        let failed = self.later.iter().filter(|(_, later)| matches!(later, Later::Failed(_)));
        failed.map(|(vector, _)| *vector).chain(self.work.iter().map(|work| work.vector))
    }

    /// Why the host refused a vector.
    pub(super) fn failure(&self, vector: Vector) -> Option<&DomainError> {
        match self.later.get(&vector) {
            Some(Later::Failed(error)) => Some(error),
            Some(Later::Deferred | Later::Expires(_)) | None => None,
        }
    }

    /// How many vectors are deferred.
    pub(super) fn deferred(&self) -> usize {
        self.deferred
    }

    /// The first `count` deferred vectors.
    pub(super) fn first_deferred(&self, count: usize) -> Vec<Vector> {
        let deferred = self.later.iter().filter(|(_, later)| matches!(later, Later::Deferred));
        deferred.map(|(vector, _)| *vector).take(count).collect()
    }

    /// Freed vectors that keep their host vector, and when their release delay is over.
    pub(super) fn expiring(&self) -> impl Iterator<Item = (Vector, Instant)> {
        self.later.iter().filter_map(|(vector, later)| match later {
            Later::Expires(at) => Some((*vector, *at)),
            Later::Failed(_) | Later::Deferred => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn failed(vector: u32) -> Later {
        Later::Failed(DomainError::Eventfd { vector: Vector(vector), source: io::ErrorKind::Other.into() })
    }

    #[test]
    fn a_vector_waits_for_one_reason_at_a_time() {
        let mut owed = Owed::default();
        owed.insert(Vector(3), failed(3));
        owed.insert(Vector(3), Later::Deferred);
        assert_eq!((owed.failed(), owed.deferred()), (0, 1));
        owed.insert(Vector(3), Later::Expires(Instant::now()));
        assert_eq!((owed.failed(), owed.deferred(), owed.expiring().count()), (0, 0, 1));
        owed.remove(Vector(3));
        assert!(owed.none_later());
    }

    #[test]
    fn what_a_panic_has_left_is_worked_on_once_with_the_next_sync() {
        let mut owed = Owed::default();
        owed.begin([5, 6, 7].map(Vector).into_iter());
        assert_eq!(owed.failed(), 3, "left by a panic");
        owed.begin([6, 2].map(Vector).into_iter());
        let vectors: Vec<u32> = owed.work().iter().map(|work| work.vector.0).collect();
        assert_eq!(vectors, [2, 5, 6, 7]);
        owed.end();
        assert_eq!(owed.failed(), 0);
    }

    /// A retry begins with the busiest vector.
    #[test]
    fn a_sync_works_on_its_vectors_in_the_order_in_which_it_was_given_them() {
        let mut owed = Owed::default();
        owed.begin([7, 2, 5].map(Vector).into_iter());
        let vectors: Vec<u32> = owed.work().iter().map(|work| work.vector.0).collect();
        assert_eq!(vectors, [7, 2, 5]);
    }

    #[test]
    fn what_is_not_kept_is_not_counted() {
        let mut owed = Owed::default();
        owed.insert(Vector(1), failed(1));
        owed.insert(Vector(2), failed(2));
        owed.insert(Vector(3), Later::Deferred);
        owed.retain(|vector| vector == Vector(2));
        assert_eq!((owed.failed(), owed.deferred()), (1, 0));
        assert!(owed.failure(Vector(2)).is_some());
    }
}
