//! Threads that let others go first: what they do is off the guest's path, and must not push a vCPU off its CPU.
//!
//! Own `unsafe`: one system call that rustix does not have.

use std::io;

/// From now on the calling thread takes no CPU from another one by waking up: it begins where a CPU is idle, or when the one
/// that runs there has had its turn (sched(7), `SCHED_BATCH`). Its share of a CPU that others want too is as before.
///
/// # Errors
/// The host's; the thread goes on as before.
pub(crate) fn set_batch() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the system call reads `parameters`, which outlives it; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{fs, thread};

    use super::*;

    /// The calling thread's policy, as the kernel tells it (proc(5), `/proc/pid/stat`, field 41).
    pub(crate) fn policy() -> i32 {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        after_name.split_whitespace().nth(41 - 3).unwrap().parse().unwrap()
    }

    #[test]
    fn it_holds_for_the_thread_that_asks_and_for_no_other() {
        let before = policy();
        let asks = thread::spawn(|| {
            set_batch().unwrap();
            policy()
        });
        assert_eq!((asks.join().unwrap(), policy()), (libc::SCHED_BATCH, before));
    }
}
