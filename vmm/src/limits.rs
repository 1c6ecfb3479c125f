//! The process's own limits, raised as far as it may, and room for what they allow.

use std::fs::File;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For so many descriptors there is room from the beginning, 64 KiB of the kernel's memory: four devices that use each of
/// 2048 vectors.
const FD_TABLE_SIZE: i32 = 8192;

/// Lets the process open as many files as its hard limit allows: each interrupt vector that a guest uses is one, and
/// shells set a soft limit of 1024. Where that fails, vectors beyond the limit are held, and the report says why.
///
/// To be called before there are threads. The kernel's table of descriptors is made large at once, as it would double at 64,
/// 128, ... of them; and who opens one then waits until no CPU can still see the old table, where threads share it
/// (`expand_fdtable`, Linux fs/file.c). An interrupt that the guest waits for would wait too: 20 ms were seen.
pub fn raise_open_files() {
    raise_limit();
    if let Err(error) = grow_fd_table() {
        tracing::info!("no room for {FD_TABLE_SIZE} descriptors beforehand: {error}");
    }
}

fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!("the limit on open files stays at {current:?}: {error}");
    }
}

/// A descriptor with a high number, which is closed at once: the table stays as large.
fn grow_fd_table() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| i32::try_from(limit).ok());
    let last = limit.unwrap_or(i32::MAX).min(FD_TABLE_SIZE).saturating_sub(1);
    drop(fcntl_dupfd_cloexec(File::open("/dev/null")?, last)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_descriptors_has_room_for_many_or_for_all_that_there_may_be() {
        raise_open_files();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let room = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(room.trim().parse::<u64>().unwrap() >= limit.min(FD_TABLE_SIZE as u64), "{room}");
    }
}
