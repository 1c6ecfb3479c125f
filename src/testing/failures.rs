//! Host failures on order: which of the next calls the fakes refuse.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A schedule of failures that fakes share.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<AtomicU32>);

impl Failures {
    /// From now on: bit n says that the n-th next call fails. All later ones succeed.
    pub fn schedule(&self, calls: u32) {
        self.0.store(calls, Ordering::Relaxed);
    }

    /// Whether any of the next calls fails.
    pub(super) fn is_scheduled(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// What the host says to the next call.
    pub(super) fn next(&self) -> io::Result<()> {
        let calls = self.0.load(Ordering::Relaxed);
        self.0.store(calls >> 1, Ordering::Relaxed);
        // ENOSPC, as from a host that is out of interrupts.
        if calls & 1 == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(28)) }
    }
}
