//! What befalls a device as a whole: masked, turned off, reset, unplugged, restored.

use std::error::Error;

use vm_msi::state::{FunctionState, Resume, resume_all};

use crate::floor;
use crate::measure::{Result, Sample, interleave, time};
use crate::message::message;
use crate::ours::{Ahead, OurFunction, Ours};
use crate::{Notes, RUNS, SIZES};

/// Devices that come back, and vectors of each.
const DEVICES: usize = 16;
const VECTORS: usize = 64;

/// For turning off, resetting and dropping it the floor is all eventfds closed and one irqfd detached: the kernel then waits for all.
pub(crate) fn measure(notes: &mut Notes) -> Result<()> {
    type Work = fn(Ours) -> Sample;
    let figures: [(_, Work); 3] = [
        ("turn_off", |ours| time(|| ours.function.write_config(2, &0u16.to_le_bytes()))),
        ("reset", |ours| time(|| ours.function.reset(|| {}))),
        ("teardown", |ours| time(|| drop(ours.function))),
    ];
    for (name, work) in figures {
        for n in SIZES {
            notes.take(name, |name| {
                let ours = || {
                    let mut ours = Ours::new(Ahead::AtStart)?;
                    ours.enable_at_once(n);
                    Ok(work(ours))
                };
                interleave(name, n, RUNS, ours, || floor::turn_off(&floor::vm()?, n))
            })?;
        }
    }
    for n in SIZES {
        notes.take("function_mask", |name| {
            let mut ours = Ours::new(Ahead::AtStart)?;
            ours.enable_at_once(n);
            let vm = floor::vm()?;
            let irqfds = floor::live(&vm, n)?;
            let mask = || Ok(ours.counting_commits(Ours::mask_function));
            interleave(name, n, RUNS, mask, || floor::reattach_all(&vm, &irqfds))
        })?;
    }
    notes.take("restore", |name| {
        let states = states()?;
        interleave(
            name,
            DEVICES * VECTORS,
            RUNS,
            || restore(&states),
            || Ok(floor::enable(&floor::vm()?, DEVICES * VECTORS)?.0),
        )
    })
}

type State = FunctionState<vm_msi::msix::MsixState>;

/// Of devices whose vectors are live, each on a message of its own.
fn states() -> Result<Vec<State>> {
    let ours = Ours::new(Ahead::AtStart)?;
    let state = |device: usize| {
        let function = ours.another(VECTORS)?;
        function.write_config(2, &0x8000u16.to_le_bytes());
        for vector in 0..VECTORS {
            let (address, data) = message(device * VECTORS + vector);
            let entry = vector as u64 * 16;
            function.write_table(entry, &u64::from(address).to_le_bytes());
            function.write_table(entry + 8, &u64::from(data).to_le_bytes());
        }
        Ok(function.suspend()?)
    };
    (0..DEVICES).map(state).collect::<std::result::Result<_, Box<dyn Error>>>()
}

fn restore(states: &[State]) -> Result<Sample> {
    let ours = Ours::new(Ahead::InBlocks)?;
    let functions: Vec<OurFunction> = states.iter().map(|_| ours.another(VECTORS)).collect::<Result<_>>()?;
    let mut restored = Ok(());
    let sample = ours.counting_commits(|ours| {
        restored = functions.iter().zip(states).try_for_each(|(function, state)| function.restore(state));
        resume_all(&*ours.router, functions.iter().map(|function| function as &dyn Resume));
    });
    restored?;
    let live: u32 = functions.iter().map(|function| function.report().live).sum();
    if live as usize == DEVICES * VECTORS { Ok(sample) } else { Err("not all were restored".into()) }
}
