//! Four threads grow four devices of one VM: how many commits of others an access waits for, and how long the longest
//! takes, in terms of one commit.

use std::thread;
use std::time::{Duration, Instant};

use vm_msi::kvm::RouteCounters;

use crate::floor;
use crate::measure::{self, Figure, Result, Sample, interleave};
use crate::message::message;
use crate::ours::{Ahead, OurFunction, Ours};
use crate::{Notes, RUNS};

const DEVICES: usize = 4;
const VECTORS: usize = 512;

/// The floor is one commit of as many messages. The threads run wherever there is a CPU: the time has their waiting for one
/// in it. What they wait for of each other is told by the router, whatever else the machine does.
pub(crate) fn measure(notes: &mut Notes) -> Result<()> {
    let cpu = notes.cpu;
    notes.take("contention", |name| {
        let vm = floor::vm()?;
        let n = DEVICES * VECTORS;
        let mut others = 0;
        let figure = interleave(name, n, RUNS, || longest(&mut others), || floor::commit(&vm, n));
        measure::pin(cpu)?;
        match others {
            0 | 1 => Ok(Figure { others_commits: Some(others), ..figure? }),
            _ => Err(format!("an access waited for {others} commits without its message").into()),
        }
    })
}

/// The longest access, and the most commits of others that one waited for so far.
fn longest(others: &mut u64) -> Result<Sample> {
    let ours = Ours::new(Ahead::InBlocks)?;
    let functions: Vec<_> = (0..DEVICES).map(|_| ours.another(VECTORS)).collect::<Result<_>>()?;
    measure::unpin()?;
    let time = thread::scope(|scope| {
        let threads: Vec<_> = functions
            .iter()
            .enumerate()
            .map(|(device, function)| scope.spawn(move || grow(function, device * VECTORS)))
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).max().unwrap_or_default()
    });
    let RouteCounters { commits, longest_wait, .. } = ours.router.counters();
    // The last one that an access waits for has its message.
    *others = longest_wait.saturating_sub(1).max(*others);
    Ok(Sample { time, commits })
}

/// The longest of the accesses that unmask.
fn grow(function: &OurFunction, beginning: usize) -> Duration {
    function.write_config(2, &0x8000u16.to_le_bytes());
    let unmask = |index: usize| {
        let (address, data) = message(beginning + index);
        function.write_table(index as u64 * 16, &u64::from(address).to_le_bytes());
        let start = Instant::now();
        function.write_table(index as u64 * 16 + 8, &u64::from(data).to_le_bytes());
        start.elapsed()
    };
    (0..VECTORS).map(unmask).max().unwrap_or_default()
}
