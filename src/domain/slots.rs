//! The vectors of a domain by their number.
//!
//! Invariant: a vector that nobody has used, or that is as such a one again, is none: 8 bytes from the first use of any
//! vector on, and nothing before.

use std::mem;
use std::ops::Range;

use super::slot::Slot;
use crate::delivery::Vector;

/// What the vectors are in the host.
#[derive(Debug)]
pub(super) struct Slots {
    places: Vec<Option<Box<Slot>>>,
    capacity: usize,
}

impl Slots {
    /// So many vectors that nobody has used.
    pub(super) fn new(capacity: usize) -> Self {
        Self { places: Vec::new(), capacity }
    }

    /// How many vectors there can be.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// A vector that is not unused.
    pub(super) fn get(&self, vector: Vector) -> Option<&Slot> {
        self.places.get(vector.index()).and_then(Option::as_deref)
    }

    pub(super) fn get_mut(&mut self, vector: Vector) -> Option<&mut Slot> {
        self.places.get_mut(vector.index()).and_then(Option::as_deref_mut)
    }

    /// Takes a vector out, to be [put](Slots::put) back.
    pub(super) fn take(&mut self, vector: Vector) -> Slot {
        self.get_mut(vector).map_or(Slot::UNUSED, |slot| mem::replace(slot, Slot::UNUSED))
    }

    /// Puts a vector in its place. There is one for each that a domain takes steps with.
    pub(super) fn put(&mut self, vector: Vector, slot: Slot) {
        if vector.index() >= self.capacity {
            return;
        }
        if self.places.is_empty() && !slot.is_unused() {
            self.places.resize_with(self.capacity, || None);
        }
        let Some(place) = self.places.get_mut(vector.index()) else { return };
        match place {
            _ if slot.is_unused() => *place = None,
            Some(place) => **place = slot,
            None => *place = Some(Box::new(slot)),
        }
    }

    /// Those that are not unused, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Vector, &Slot)> + Clone {
        self.range(0..self.places.len())
    }

    /// Of these vectors those that are not unused, ascending.
    pub(super) fn range(&self, vectors: Range<usize>) -> impl Iterator<Item = (Vector, &Slot)> + Clone {
        let end = vectors.end.min(self.places.len());
        let places = self.places.get(vectors.start..end).unwrap_or_default();
        (vectors.start..)
            .zip(places)
            .filter_map(|(index, place)| place.as_deref().map(|slot| (Vector(index as u32), slot)))
    }

    /// Changes every vector that is not unused.
    pub(super) fn update(&mut self, mut change: impl FnMut(Vector, &mut Slot)) {
        for (vector, place) in (0..).map(Vector).zip(&mut self.places) {
            let Some(slot) = place else { continue };
            change(vector, slot);
            if slot.is_unused() {
                *place = None;
            }
        }
    }
}
