//! The slots of a domain's vectors, in groups of 16 neighbours.
//!
//! Invariant: a group is allocated while one of its vectors is used, and costs a pointer otherwise. A vector that is unused again does
//! not differ from one that was never used. A domain that binds vectors in order therefore allocates once in 16 vectors. A domain of
//! 65,536 vectors, three of them used, takes 33 KiB.

use std::ops::Range;

use super::slot::Slot;
use crate::delivery::Vector;

/// Vectors in a group.
const GROUP: usize = 16;

type Group = [Slot; GROUP];

/// The slot of each vector.
#[derive(Debug)]
pub(super) struct Slots {
    groups: Vec<Option<Box<Group>>>,
    capacity: usize,
}

impl Slots {
    /// Slots of `capacity` unused vectors.
    pub(super) fn new(capacity: usize) -> Self {
        Self { groups: Vec::new(), capacity }
    }

    /// How many vectors there are.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// A vector's slot. For an unused vector it may be `None`.
    pub(super) fn get(&self, vector: Vector) -> Option<&Slot> {
        let (group, place) = split(vector);
        self.groups.get(group)?.as_deref()?.get(place)
    }

    /// As [`Slots::get`].
    pub(super) fn get_mut(&mut self, vector: Vector) -> Option<&mut Slot> {
        let (group, place) = split(vector);
        self.groups.get_mut(group)?.as_deref_mut()?.get_mut(place)
    }

    /// Changes one slot in place; `None` beyond the last vector. A group without used vectors is freed.
    #[inline]
    pub(super) fn update_one<T>(&mut self, vector: Vector, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let slot = match self.get_mut(vector) {
            Some(_) => self.get_mut(vector)?,
            None => self.make_room(vector)?,
        };
        let changed = change(slot);
        if slot.is_unused() {
            self.free_room(vector);
        }
        Some(changed)
    }

    #[cold]
    fn make_room(&mut self, vector: Vector) -> Option<&mut Slot> {
        if vector.index() >= self.capacity {
            return None;
        }
        if self.groups.is_empty() {
            self.groups.resize_with(self.capacity.div_ceil(GROUP), || None);
        }
        let (group, place) = split(vector);
        let unused = || Box::new([Slot::UNUSED; GROUP]);
        self.groups.get_mut(group)?.get_or_insert_with(unused).get_mut(place)
    }

    #[cold]
    fn free_room(&mut self, vector: Vector) {
        let (group, _) = split(vector);
        self.groups.get_mut(group).into_iter().for_each(drop_unused);
    }

    /// Replaces a vector's slot. A vector that does not exist is ignored.
    pub(super) fn put(&mut self, vector: Vector, slot: Slot) {
        if !(self.groups.is_empty() && slot.is_unused()) {
            self.update_one(vector, |place| *place = slot);
        }
    }

    /// The used vectors, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Vector, &Slot)> + Clone {
        self.range(0..self.capacity)
    }

    /// The used ones of `vectors`, ascending.
    pub(super) fn range(&self, vectors: Range<usize>) -> impl Iterator<Item = (Vector, &Slot)> + Clone {
        let groups = vectors.start / GROUP..vectors.end.div_ceil(GROUP).min(self.groups.len());
        let firsts = (groups.start.saturating_mul(GROUP)..).step_by(GROUP);
        firsts
            .zip(self.groups.get(groups).unwrap_or_default())
            .filter_map(move |(first, group)| {
                let from = vectors.start.saturating_sub(first);
                let to = vectors.end.saturating_sub(first).min(GROUP);
                Some((first.saturating_add(from)..).zip(group.as_deref()?.get(from..to)?))
            })
            .flatten()
            .filter(|(_, slot)| !slot.is_unused())
            .map(|(index, slot)| (Vector(index as u32), slot))
    }

    /// Changes the slot of every used vector.
    pub(super) fn update(&mut self, mut change: impl FnMut(Vector, &mut Slot)) {
        for (first, group) in (0..).step_by(GROUP).zip(&mut self.groups) {
            let slots = (first..).map(Vector).zip(group.as_deref_mut().into_iter().flatten());
            slots.filter(|(_, slot)| !slot.is_unused()).for_each(|(vector, slot)| change(vector, slot));
            drop_unused(group);
        }
    }
}

fn split(vector: Vector) -> (usize, usize) {
    (vector.index() / GROUP, vector.index() % GROUP)
}

fn drop_unused(group: &mut Option<Box<Group>>) {
    *group = group.take().filter(|group| !group.iter().all(Slot::is_unused));
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATCHED: Slot = Slot::Idle { latched: true };

    fn used(slots: &Slots) -> Vec<u32> {
        slots.iter().map(|(vector, _)| vector.0).collect()
    }

    fn groups(slots: &Slots) -> usize {
        slots.groups.iter().flatten().count()
    }

    #[test]
    fn a_group_is_there_while_one_of_its_vectors_is_used() {
        let mut slots = Slots::new(40);
        slots.put(Vector(3), Slot::UNUSED);
        assert_eq!(slots.groups.capacity(), 0);
        for vector in [15, 16, 39, 17] {
            slots.put(Vector(vector), LATCHED);
        }
        assert_eq!((used(&slots), groups(&slots)), (vec![15, 16, 17, 39], 3));
        slots.put(Vector(16), Slot::UNUSED);
        slots.put(Vector(39), Slot::UNUSED);
        assert_eq!((used(&slots), groups(&slots)), (vec![15, 17], 2));
        slots.update(|_, slot| slot.clear_pending());
        assert_eq!((used(&slots), groups(&slots)), (vec![], 0));
    }

    #[test]
    fn beyond_the_last_vector_nothing_is_kept() {
        let mut slots = Slots::new(40);
        for vector in [40, 47, 48, u32::MAX] {
            slots.put(Vector(vector), LATCHED);
            assert!(slots.get(Vector(vector)).is_none() && slots.get_mut(Vector(vector)).is_none());
        }
        assert!(used(&slots).is_empty());
    }

    #[test]
    fn a_range_has_those_within_it() {
        let mut slots = Slots::new(64);
        (0..64).step_by(3).for_each(|vector| slots.put(Vector(vector), LATCHED));
        let within = |range| slots.range(range).map(|(vector, _)| vector.0).collect::<Vec<_>>();
        assert!(within(0..0).is_empty());
        assert_eq!(within(15..16), [15]);
        assert_eq!(within(16..33), [18, 21, 24, 27, 30]);
        assert_eq!(within(60..1000), [60, 63]);
    }
}
