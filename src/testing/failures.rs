//! Host failures on order: which of the next calls the fakes refuse.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A schedule of failures that fakes share.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Schedule>);

#[derive(Debug, Default)]
struct Schedule {
    calls: AtomicU32,
    /// Every call fails, and the schedule waits.
    all: AtomicBool,
}

impl Failures {
    /// From now on: bit n says that the n-th next call fails. All later ones succeed.
    pub fn schedule(&self, calls: u32) {
        self.0.calls.store(calls, Ordering::Relaxed);
    }

    /// Runs `look` while every call fails, so that looking changes nothing; the schedule goes on afterwards.
    pub(super) fn refuse_all_during<T>(&self, look: impl FnOnce() -> T) -> T {
        self.0.all.store(true, Ordering::Relaxed);
        let seen = look();
        self.0.all.store(false, Ordering::Relaxed);
        seen
    }

    /// Whether any of the next calls fails.
    pub(super) fn is_scheduled(&self) -> bool {
        self.0.calls.load(Ordering::Relaxed) != 0
    }

    /// What the host says to the next call.
    pub(super) fn next(&self) -> io::Result<()> {
        if self.0.all.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(28));
        }
        let calls = self.0.calls.load(Ordering::Relaxed);
        self.0.calls.store(calls >> 1, Ordering::Relaxed);
        // ENOSPC, as from a host that is out of interrupts.
        if calls & 1 == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(28)) }
    }
}
