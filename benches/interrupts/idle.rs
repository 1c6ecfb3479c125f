//! What a device of 2048 vectors costs while a guest uses 3 of them.

use std::fs;

use stats_alloc::Region;

use crate::measure::Result;
use crate::ours::{Ahead, Ours};
use crate::{ALLOCATOR, Notes};

const USED: usize = 3;

pub(crate) fn measure(notes: &Notes) -> Result<()> {
    if !notes.want("idle") {
        return Ok(());
    }
    // The lowest three, as drivers ask for them, and three far apart.
    for step in [1, 1023] {
        let (eventfds, routes, heap) = of(2048, step)?;
        let (_, _, least) = of(USED * step - step + 1, step)?;
        let (_, _, used_only) = of(USED, 1)?;
        println!(
            "idle: {USED} of 2048 in use, {step} apart: {eventfds} eventfds, {routes} GSIs, {} bytes of heap for each \
             of the others ({least} bytes for a device that ends with the last one)",
            (heap - used_only) / (2048 - USED)
        );
    }
    Ok(())
}

/// Eventfds, GSIs and heap bytes of a device of `vectors`, three of which are in use.
fn of(vectors: usize, step: usize) -> Result<(usize, usize, usize)> {
    let ours = Ours::new(Ahead::AtStart)?;
    let (open, region) = (descriptors()?, Region::new(ALLOCATOR));
    let function = ours.another(vectors)?;
    function.write_config(2, &0x8000u16.to_le_bytes());
    for vector in (0..USED).map(|index| index * step) {
        let (address, data) = crate::message::message(vector);
        function.write_table(vector as u64 * 16, &u64::from(address).to_le_bytes());
        function.write_table(vector as u64 * 16 + 8, &u64::from(data).to_le_bytes());
    }
    let heap = region.change();
    Ok((descriptors()? - open, ours.router.counters().in_use, heap.bytes_allocated - heap.bytes_deallocated))
}

fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}
