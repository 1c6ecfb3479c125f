//! Accesses that reach no host: beside one uncontended lock, which is their floor.

use std::error::Error;
use std::hint::black_box;
use std::sync::Mutex;

use crate::measure::{Figure, interleave, time};
use crate::ours::{Ahead, Ours, message};

/// Accesses in one sample.
const BATCH: u32 = 10_000;

/// Times table accesses and PBA reads, each in microseconds for one.
pub(crate) fn measure(note: &mut impl FnMut(Figure)) -> Result<(), Box<dyn Error>> {
    let mut ours = Ours::new(Ahead::AtStart)?;
    ours.enable_at_once(64);
    let function = &ours.function;
    // An entry with a message: writing it changes registers, and nothing that the host needs to know.
    let masked = 100 * 16;
    ours.write_message(100, message(100));
    let mut toggle = 0u32;
    note(one("table_read_4", || function.read_table(black_box(masked), &mut [0; 4]))?);
    note(one("table_read_8", || function.read_table(black_box(masked), &mut [0; 8]))?);
    note(one("table_write_masked_4", || {
        toggle ^= 1;
        function.write_table(black_box(masked + 8), &(0x40 | toggle).to_le_bytes());
    })?);
    note(one("table_write_masked_8", || {
        toggle ^= 1;
        function.write_table(black_box(masked), &u64::from(toggle).to_le_bytes());
    })?);
    note(one("pba_read_none_held", || function.read_pba(black_box(8), &mut [0; 8]))?);
    (0..64).for_each(|index| ours.write_control(index, 1));
    note(one("pba_read_64_held", || ours.function.read_pba(black_box(0), &mut [0; 8]))?);
    Ok(())
}

fn one(name: &'static str, mut access: impl FnMut()) -> Result<Figure, Box<dyn Error>> {
    let lock = Mutex::new(0u64);
    let mut figure = interleave(
        name,
        1,
        21,
        || Ok(time(|| (0..BATCH).for_each(|_| access()))),
        || Ok(time(|| (0..BATCH).for_each(|_| *black_box(&lock).lock().expect("nobody panics") += 1))),
    )?;
    figure.ours_us /= f64::from(BATCH);
    figure.floor_us /= f64::from(BATCH);
    Ok(figure)
}
