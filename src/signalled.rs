//! Polls eventfds for signals without reading them, with one system call for any number.
//!
//! Owns the crate's only borrow of raw descriptors. The result is valid only for eventfds that are not
//! attached to an irqfd, because an attached one shows a stale count.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use vmm_sys_util::eventfd::EventFd;

/// Whether each of `eventfds` holds a signal, in order. If the host cannot tell, the answer is yes: an extra
/// interrupt is harmless, a lost one is not. The call is repeated after EINTR, which vCPU threads often get,
/// because `poll` may return it even if it need not wait.
pub(crate) fn signalled<'a>(eventfds: impl IntoIterator<Item = &'a EventFd>) -> impl Iterator<Item = bool> {
    let mut fds: Vec<PollFd<'a>> = eventfds
        .into_iter()
        .map(|eventfd| PollFd::from_borrowed_fd(borrow(eventfd), PollFlags::IN))
        .collect();
    let failed = !fds.is_empty() && retry_on_intr(|| poll(&mut fds, Some(&Timespec::default()))).is_err();
    fds.into_iter().map(move |fd| failed || fd.revents().contains(PollFlags::IN))
}

/// The descriptor in the borrowed form that rustix needs.
pub(crate) fn borrow(eventfd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the `EventFd` that owns it, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(eventfd.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::iter;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use signal_hook::consts::SIGUSR1;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;
    use vmm_sys_util::signal::Killable;

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

    #[test]
    fn a_thread_that_gets_signals_sees_no_interrupt_where_none_waits() {
        signal_hook::flag::register(SIGUSR1, Arc::default()).unwrap();
        let eventfd = EventFd::new(EFD_NONBLOCK).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let ends = done.clone();
        let asking = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                // So many that most signals come during the test.
                assert!(!signalled(iter::repeat_n(&eventfd, 512)).any(|signalled| signalled));
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) && !asking.is_finished() {
            asking.kill(SIGUSR1).unwrap();
            thread::sleep(Duration::from_micros(20));
        }
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap();
    }
}
