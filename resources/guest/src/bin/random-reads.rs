//! Reads a disk at random places, past the page cache, from every CPU at once: `random-reads DEVICE READS`.
//!
//! Each CPU has one thread and each thread one read of 4 KiB under way, so that what is seen is what a read waits for.
//! Prints `reads=.. readers=.. us=.. median_us=..`: the reads of all threads, the time from the first to the last, and
//! that of one.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::thread::{CpuSet, sched_setaffinity};

const BLOCK: usize = 4096;

/// Direct I/O wants its memory aligned as the disk's blocks are.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(device), Some(reads)) = (arguments.next(), arguments.next()) else {
        return Err("usage: random-reads DEVICE READS".into());
    };
    let direct = i32::try_from(OFlags::DIRECT.bits())?;
    let mut disk = OpenOptions::new().read(true).custom_flags(direct).open(device)?;
    let blocks = disk.seek(SeekFrom::End(0))? / BLOCK as u64;
    let readers = thread::available_parallelism()?.get();
    let each = reads.parse::<usize>()?.div_ceil(readers);
    let ready = Barrier::new(readers + 1);
    let mut each_took = Vec::new();
    let took = thread::scope(|scope| -> io::Result<Duration> {
        let (disk, ready) = (&disk, &ready);
        let threads: Vec<_> =
            (0..readers).map(|cpu| scope.spawn(move || read(disk, blocks, each, cpu, ready))).collect();
        ready.wait();
        let start = Instant::now();
        for thread in threads {
            each_took.extend(thread.join().map_err(|_| io::Error::other("a reader panicked"))??);
        }
        Ok(start.elapsed())
    })?;
    each_took.sort_unstable();
    let median = each_took.get(each_took.len() / 2).ok_or("nothing was read")?;
    let (us, median_us) = (took.as_micros(), median.as_micros());
    println!("reads={} readers={readers} us={us} median_us={median_us}", each_took.len());
    Ok(())
}

/// Reads so many blocks, one after the other, on this CPU, and gives the time of each.
fn read(disk: &File, blocks: u64, reads: usize, cpu: usize, ready: &Barrier) -> io::Result<Vec<Duration>> {
    let mut set = CpuSet::new();
    set.set(cpu);
    let pinned = sched_setaffinity(None, &set);
    let mut places = fastrand::Rng::with_seed(cpu as u64);
    let mut block = Box::new(Block([0; BLOCK]));
    let mut took = Vec::with_capacity(reads);
    // Everybody comes here, so that nobody waits for one who failed.
    ready.wait();
    pinned?;
    for _ in 0..reads {
        let start = Instant::now();
        disk.read_exact_at(&mut block.0, places.u64(0..blocks) * BLOCK as u64)?;
        took.push(start.elapsed());
    }
    Ok(took)
}
