//! Asks eventfds whether they hold signals, without reading them: one system call for any number.
//!
//! Holds the crate's one borrow of raw descriptors. Meaningful only for eventfds that are attached to no irqfd
//! (an attached one shows stale counts).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use vmm_sys_util::eventfd::EventFd;

/// Which of `eventfds` hold signals, in order. Where the host cannot say, they do: an interrupt too many is
/// harmless, a lost one is not. A signal to the thread (vCPU threads get many) is no such reason: `poll` is interrupted
/// by one also where it would not wait.
pub(crate) fn signalled<'a>(eventfds: impl IntoIterator<Item = &'a EventFd>) -> impl Iterator<Item = bool> {
    let mut fds: Vec<PollFd<'a>> = eventfds
        .into_iter()
        .map(|eventfd| PollFd::from_borrowed_fd(borrow(eventfd), PollFlags::IN))
        .collect();
    let failed = !fds.is_empty() && retry_on_intr(|| poll(&mut fds, Some(&Timespec::default()))).is_err();
    fds.into_iter().map(move |fd| failed || fd.revents().contains(PollFlags::IN))
}

/// The descriptor, for rustix, which takes borrowed ones.
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
                // So many that most signals come meanwhile.
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
