//! Asks eventfds whether they hold signals, without reading them: one system call for any number.
//!
//! Holds the crate's one borrow of raw descriptors. Meaningful only for eventfds that are attached to no irqfd
//! (an attached one shows stale counts).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::EventFd;

/// Which of `eventfds` hold signals, in order. Where the host cannot say, they do: an interrupt too many is
/// harmless, a lost one is not.
pub(crate) fn signalled<'a>(eventfds: impl IntoIterator<Item = &'a EventFd>) -> impl Iterator<Item = bool> {
    let mut fds: Vec<PollFd<'a>> = eventfds
        .into_iter()
        .map(|eventfd| PollFd::from_borrowed_fd(borrow(eventfd), PollFlags::IN))
        .collect();
    let failed = !fds.is_empty() && poll(&mut fds, Some(&Timespec::default())).is_err();
    fds.into_iter().map(move |fd| failed || fd.revents().contains(PollFlags::IN))
}

/// The descriptor, for rustix, which takes borrowed ones.
pub(crate) fn borrow(eventfd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the `EventFd` that owns it, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(eventfd.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn asking_tells_which_hold_signals_and_takes_none() {
        let eventfds = [0, 1, 2].map(|_| EventFd::new(EFD_NONBLOCK).unwrap());
        eventfds[1].write(3).unwrap();
        for _ in 0..2 {
            assert_eq!(signalled(&eventfds).collect::<Vec<_>>(), [false, true, false]);
        }
        assert_eq!(eventfds[1].read().unwrap(), 3);
        assert_eq!(signalled(&eventfds).collect::<Vec<_>>(), [false, false, false]);
    }
}
