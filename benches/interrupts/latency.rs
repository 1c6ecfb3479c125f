//! From a guest's unmask to the first moment at which an interrupt can reach it. Medians, and the worst seen.

use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::floor;
use crate::measure::{Result, Sample, interleave, time};
use crate::message::message;
use crate::ours::{Ahead, Ours};
use crate::{Notes, RUNS};

pub(crate) fn measure(notes: &mut Notes) -> Result<()> {
    // The message is published: when the write returns, the eventfd is an irqfd. The floor attaches one.
    notes.take("unmask_published", |name| {
        let mut ours = Ours::new(Ahead::AtStart)?;
        ours.enable_at_once(512);
        let vm = floor::vm()?;
        let irqfds = floor::live(&vm, 512)?;
        let unmask = || {
            ours.write_control(256, 1);
            Ok(time(|| ours.write_control(256, 0)))
        };
        interleave(name, 512, RUNS * 8, unmask, || floor::attach(&vm, &irqfds))
    })?;
    // It is not, and is by one commit when the write returns. The floor commits the same messages, and attaches.
    notes.take("unmask_with_commit", |name| {
        let unmask = || {
            let mut ours = Ours::new(Ahead::InBlocks)?;
            ours.enable_at_once(512);
            ours.write_control(256, 1);
            ours.write_message(256, message(200 * 12));
            Ok(ours.counting_commits(|ours| ours.write_control(256, 0)))
        };
        interleave(name, 512, RUNS, unmask, || {
            let vm = floor::vm()?;
            let irqfds = floor::live(&vm, 512)?;
            floor::commit_and_attach(&vm, &irqfds)
        })
    })?;
    // It has no host vector yet, and a thread requests that: until the guest's write has returned, and until the vector is an
    // irqfd. Here both are on one CPU.
    for (name, until) in [("unmask_growing_written", Until::Written), ("unmask_growing_live", Until::Live)] {
        notes.take(name, |name| {
            let vm = floor::vm()?;
            let (_, mut irqfds) = floor::enable(&vm, 512)?;
            interleave(name, 512, RUNS, || unmask_growing(until), || floor::add(&vm, &mut irqfds))
        })?;
    }
    // There is no room: the embedder's thread is told, and delivers what waits. The floor is the signal itself.
    notes.take("unmask_without_room", |name| {
        let ours = Ours::ringing(Ahead::InBlocks)?;
        let filler = ours.another(2048)?;
        // Those that find no room are of the APIC that there is.
        for (function, last) in [(&filler, 4095), (&ours.function, 2047)] {
            function.write_config(2, &0xc000u16.to_le_bytes());
            for index in 0..2048 {
                let (address, data) = message(last - index);
                function.write_table(index as u64 * 16, &u64::from(address).to_le_bytes());
                function.write_table(index as u64 * 16 + 8, &u64::from(data).to_le_bytes());
            }
        }
        let relay = ours.function.relay_fd()?;
        filler.write_config(2, &0x8000u16.to_le_bytes());
        ours.function.write_config(2, &0x8000u16.to_le_bytes());
        let report = ours.function.report();
        let relayed = report.vectors.iter().find(|vector| vector.delivered.is_some());
        let vector = relayed.ok_or("every message found room")?.vector.index();
        let unmask = || {
            ours.write_control(vector, 1);
            ours.ring(vector);
            let delivered = ours.function.report().counters.relayed;
            let sample = time(|| {
                ours.write_control(vector, 0);
                let _ = poll(&mut [PollFd::new(&relay, PollFlags::IN)], Some(&Timespec::default()));
                ours.function.deliver_relayed();
            });
            match ours.function.report().counters.relayed - delivered {
                0 => Err("nothing was delivered".into()),
                _ => Ok(sample),
            }
        };
        let (vm, _apic) = floor::vm_with_apic()?;
        interleave(name, 4096, RUNS, unmask, || floor::signal(&vm, 1))
    })
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    /// The guest's write returns.
    Written,
    /// An interrupt can be delivered.
    Live,
}

/// One more vector, of a function with 512 that are live and a thread that requests host vectors.
fn unmask_growing(until: Until) -> Result<Sample> {
    let mut ours = Ours::new(Ahead::AtStart)?;
    ours.enable_at_once(512);
    let ours = ours;
    let growth = ours.function.deferred_bind_fd()?;
    ours.write_message(600, message(600));
    let before = ours.function.report().live;
    let (written, live) = thread::scope(|scope| {
        let growing = scope.spawn(|| {
            let _ = poll(&mut [PollFd::new(&growth, PollFlags::IN)], None);
            ours.function.bind_deferred();
            Instant::now()
        });
        // Until the thread waits: a guest's growth begins long after it.
        thread::sleep(Duration::from_millis(1));
        let start = Instant::now();
        ours.write_control(600, 0);
        let written = start.elapsed();
        growing.join().map(|live| (written, live.duration_since(start))).map_err(|_| "the thread has failed")
    })?;
    match ours.function.report().live - before {
        1 => Ok(Sample { time: if until == Until::Written { written } else { live }, commits: 0 }),
        _ => Err("the vector has not grown".into()),
    }
}
