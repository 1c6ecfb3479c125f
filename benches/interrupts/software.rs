//! Vectors that the VMM raises itself: no eventfd, no route.

use std::hint::black_box;

use vm_msi::{SoftwareMsix, Vector};

use crate::Notes;
use crate::floor;
use crate::measure::{Result, interleave, time};
use crate::message::message;
use crate::ours::{Ahead, Ours, layout};
use crate::registers::{BATCH, without_allocating};

pub(crate) fn measure(notes: &mut Notes) -> Result<()> {
    let ours = Ours::ringing(Ahead::InBlocks)?;
    let software = SoftwareMsix::software(layout(64)?, ours.router.clone());
    let entry = |index: usize, control: u64| {
        let (address, data) = message(index);
        software.write_table(0, &u64::from(address).to_le_bytes());
        software.write_table(8, &(u64::from(data) | control << 32).to_le_bytes());
    };
    software.write_config(2, &0x8000u16.to_le_bytes());
    entry(0, 0);
    // One signal, of a vector that its local APIC has already, as nobody runs there.
    notes.take("software_trigger", |name| {
        let (vm, _apic) = floor::vm_with_apic()?;
        let figure = interleave(
            name,
            1,
            101,
            || Ok(time(|| (0..BATCH).for_each(|_| software.trigger(black_box(Vector(0)))))),
            || floor::signal(&vm, BATCH),
        )?;
        let counters = software.counters();
        if counters.delivered == 0 || counters.latched + counters.dropped > 0 {
            return Err("a trigger was not delivered at once".into());
        }
        Ok(figure.each_of(BATCH.into()))
    })?;
    // Masked, another message, unmasked: beside one uncontended lock.
    let mut at = 0;
    notes.take("software_retarget", |name| {
        without_allocating(name, || {
            at ^= 1;
            software.write_table(12, &1u32.to_le_bytes());
            entry(black_box(at), 1);
            software.write_table(12, &0u32.to_le_bytes());
        })
    })
}
