//! What the host does to a function: it refuses calls, and it wakes the embedder's threads.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_msi::state::{Resume, resume_all};

use crate::fixture::Fixture;

impl Fixture {
    /// The host refuses the n-th of the next calls if bit n is set.
    pub(crate) fn refuse(&self, calls: u32) {
        self.failures.schedule(calls);
    }

    pub(crate) fn resume(&self) {
        resume_all(&*self.router, [&*self.function as &dyn Resume]);
    }

    /// Whether the deferred-bind eventfd is readable. The first call defers all later requests.
    pub(crate) fn is_told_to_grow(&self) -> bool {
        is_readable(&self.function.deferred_bind_fd().unwrap())
    }
}

/// Whether a descriptor is readable.
pub(crate) fn is_readable(watched: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(watched, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
}
