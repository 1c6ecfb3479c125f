//! Raises the process's limit of open files and preallocates its descriptor table.

use std::fs::File;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Initial capacity of the descriptor table, which takes 64 KiB of kernel memory. It suffices for four devices with
/// 2048 vectors each.
const FD_TABLE_SIZE: i32 = 8192;

/// Raises the limit of open files to the hard limit. Each interrupt vector in use needs a descriptor, and shells set
/// a soft limit of 1024. If this fails, vectors beyond the limit are held, and the report gives the cause.
///
/// Call this before the process has threads. The kernel doubles its descriptor table at 64, 128, ... descriptors. In
/// a process with threads, the opening thread then waits for an RCU grace period (`expand_fdtable`, Linux fs/file.c),
/// and so does the guest's interrupt. 20 ms were measured.
pub fn raise_open_files() {
    raise_limit();
    if let Err(error) = grow_fd_table() {
        tracing::info!("cannot preallocate {FD_TABLE_SIZE} descriptors: {error}");
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

/// Opens a descriptor with a high number and closes it. The table does not shrink.
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
    fn the_descriptor_table_is_preallocated_up_to_the_limit() {
        raise_open_files();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let room = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(room.trim().parse::<u64>().unwrap() >= limit.min(FD_TABLE_SIZE as u64), "{room}");
    }
}
