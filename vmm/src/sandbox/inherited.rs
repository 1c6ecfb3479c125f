//! The descriptors above standard error that the VMM was started with.
//!
//! They are noted before the VMM opens anything, and closed before the guest runs: a file of an option may be one of them, as in
//! `--kernel /dev/fd/3`. None of them has an owner in this process.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Inherited descriptors.
#[derive(Debug, Default)]
pub struct Inherited(Vec<RawFd>);

impl Inherited {
    /// Notes the open descriptors. Call this before anything is opened.
    #[must_use]
    pub fn note() -> Self {
        let listed = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let numbers = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut numbers: Vec<RawFd> = numbers.filter(|number| *number > libc::STDERR_FILENO).collect();
        // The list itself is one that is closed by now.
        numbers.retain(|number| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
        Self(numbers)
    }

    /// Closes them.
    pub fn close(self) {
        if !self.0.is_empty() {
            tracing::debug!("closing inherited descriptors {:?}", self.0);
        }
        for number in self.0 {
            // SAFETY: the descriptor was open before this program's code, so that no object of it owns the number, and the number
            // was not given away since.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}
