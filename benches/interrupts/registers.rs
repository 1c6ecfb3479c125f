//! Accesses that reach no host: beside one uncontended lock, which an MSI-X table does without.

use std::hint::black_box;
use std::sync::Mutex;

use stats_alloc::Region;

use crate::measure::{Figure, Result, interleave, time};
use crate::message::message;
use crate::ours::{Ahead, Ours};
use crate::{ALLOCATOR, Notes};

/// Accesses in one sample.
pub(crate) const BATCH: u32 = 10_000;

/// Times table accesses and PBA reads, each in microseconds for one.
pub(crate) fn measure(notes: &mut Notes) -> Result<()> {
    let mut ours = Ours::ringing(Ahead::AtStart)?;
    ours.enable_at_once(64);
    // An entry with a message: writing it changes registers, and nothing that the host needs to know.
    let masked = 100 * 16;
    ours.write_message(100, message(100));
    let function = &ours.function;
    let mut toggle = 0u32;
    notes.take("table_read_4", |name| {
        without_allocating(name, || function.read_table(black_box(masked), &mut [0; 4]))
    })?;
    notes.take("table_read_8", |name| {
        without_allocating(name, || function.read_table(black_box(masked), &mut [0; 8]))
    })?;
    notes.take("table_write_masked_4", |name| {
        without_allocating(name, || {
            toggle ^= 1;
            function.write_table(black_box(masked + 8), &(0x40 | toggle).to_le_bytes());
        })
    })?;
    notes.take("table_write_masked_8", |name| {
        without_allocating(name, || {
            toggle ^= 1;
            function.write_table(black_box(masked), &u64::from(toggle).to_le_bytes());
        })
    })?;
    notes.take("pba_read_none_held", |name| one(name, || function.read_pba(black_box(0), &mut [0; 8])))?;
    (0..64).for_each(|index| ours.write_control(index, 1));
    notes.take("pba_read_0_of_64_pending", |name| {
        one(name, || function.read_pba(black_box(0), &mut [0; 8]))
    })?;
    (0..64).for_each(|index| ours.ring(index));
    let mut pending = [0; 8];
    function.read_pba(0, &mut pending);
    if pending != [0xff; 8] {
        return Err("not all that was raised is pending".into());
    }
    notes.take("pba_read_64_of_64_pending", |name| one(name, || function.read_pba(black_box(0), &mut [0; 8])))
}

/// Many of one access, which must allocate nothing.
pub(crate) fn without_allocating(name: &'static str, mut access: impl FnMut()) -> Result<Figure> {
    allocates_nothing(name, &mut access)?;
    one(name, access)
}

/// Fails where so many of one kind of work allocate anything.
pub(crate) fn allocates_nothing(name: &'static str, mut work: impl FnMut()) -> Result<()> {
    let region = Region::new(ALLOCATOR);
    (0..100).for_each(|_| work());
    match region.change().allocations {
        0 => Ok(()),
        allocations => Err(format!("{name}: {allocations} allocations in 100 times").into()),
    }
}

fn one(name: &'static str, mut access: impl FnMut()) -> Result<Figure> {
    let lock = Mutex::new(0u64);
    let figure = interleave(
        name,
        1,
        21,
        || Ok(time(|| (0..BATCH).for_each(|_| access()))),
        || Ok(time(|| (0..BATCH).for_each(|_| *black_box(&lock).lock().expect("nobody panics") += 1))),
    )?;
    Ok(figure.each_of(BATCH.into()))
}
