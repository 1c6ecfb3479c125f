//! The scheduling policy of threads whose work is off the guest's path and must not preempt a vCPU.
//!
//! Contains `unsafe` for one system call that rustix does not have.

use std::io;

/// Sets `SCHED_BATCH` for the calling thread (sched(7)): the thread does not preempt a running one when it wakes up.
/// Its share of a contended CPU stays the same.
///
/// # Errors
/// The error of sched_setscheduler(2). The thread keeps its policy.
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

    /// The calling thread's policy (proc(5), `/proc/pid/stat`, field 41).
    pub(crate) fn policy() -> i32 {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        after_name.split_whitespace().nth(41 - 3).unwrap().parse().unwrap()
    }

    #[test]
    fn the_policy_applies_to_the_calling_thread_only() {
        let before = policy();
        let asks = thread::spawn(|| {
            set_batch().unwrap();
            policy()
        });
        assert_eq!((asks.join().unwrap(), policy()), (libc::SCHED_BATCH, before));
    }
}
