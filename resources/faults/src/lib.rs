//! Refuses system calls of code that runs unchanged: what the kernel does when it is short of something.
//!
//! Code or a program runs under a seccomp filter with a listener (seccomp(2), `SECCOMP_RET_USER_NOTIF`). Calls that were
//! named wait until [`under`]'s caller has answered: the kernel makes them, or they return what the answer says and
//! nothing is done. Other calls do not notice.

mod call;
mod listener;
mod plan;

use std::io;
use std::sync::mpsc;
use std::thread;

pub use call::{Call, UnknownCall};
pub use listener::Attempt;
use listener::Listener;
pub use plan::{OneIn, Rule};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The kernel makes it.
    Make,
    /// It fails with this error, and nothing is done.
    Fail(rustix::io::Errno),
    /// It returns this value, and nothing is done.
    Return(i64),
}

/// Does some work on a thread of its own, while `answer` decides on this thread about its calls, and about those of
/// whatever it starts.
///
/// Returns when the work has. Calls of threads and processes that it has left behind fail with `ENOSYS` from then on.
///
/// # Errors
/// The kernel refuses the filter (seccomp(2)). The work was not begun.
///
/// # Panics
/// The work's own panic.
pub fn under<T: Send>(
    calls: &[Call],
    mut answer: impl FnMut(&Attempt) -> Answer,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let (sender, installed) = mpsc::channel();
        let worker = scope.spawn(move || {
            let listener = Listener::install(calls);
            let is_installed = listener.is_ok();
            // The other end waits for it.
            let _ = sender.send(listener);
            is_installed.then(work)
        });
        let listener = installed.recv().map_err(|_| io::Error::other("the thread ended"))??;
        while !worker.is_finished() {
            if let Some(attempt) = listener.next()? {
                listener.answer(&attempt, answer(&attempt))?;
            }
        }
        let done = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.ok_or_else(|| io::Error::other("the filter was not installed"))
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::Errno;

    use super::*;

    fn make_an_eventfd() -> Result<(), Errno> {
        eventfd(0, EventfdFlags::CLOEXEC).map(drop)
    }

    #[test]
    fn calls_that_were_named_are_made_or_refused_as_the_answer_says() {
        let mut answers = [Answer::Make, Answer::Fail(Errno::NFILE), Answer::Make].into_iter();
        let answer = |_: &Attempt| answers.next().unwrap();
        let made = under(&[Call::Eventfd], answer, || [(); 3].map(|()| make_an_eventfd())).unwrap();
        assert_eq!(made, [Ok(()), Err(Errno::NFILE), Ok(())]);
        assert_eq!(make_an_eventfd(), Ok(()), "the filter is the other thread's");
    }

    #[test]
    fn a_refused_call_can_return_any_value() {
        let opened = File::open("/dev/null").unwrap();
        let asked = under(
            &[Call::VfioSetIrqs],
            |_| Answer::Return(7),
            || {
                // SAFETY: the request has no argument that the kernel would follow, and is not made.
                unsafe {
                    libc::ioctl(
                        std::os::fd::AsRawFd::as_raw_fd(&opened),
                        Call::VfioSetIrqs.request().unwrap().into(),
                        0,
                    )
                }
            },
        );
        assert_eq!(asked.unwrap(), 7);
    }

    #[test]
    fn other_calls_are_not_asked_about() {
        let not_asked = |attempt: &Attempt| panic!("{attempt:?}");
        assert_eq!(
            under(&[Call::KvmIrqfdAttach, Call::KvmSetGsiRouting], not_asked, make_an_eventfd).unwrap(),
            Ok(())
        );
    }

    #[test]
    fn a_program_and_its_children_are_under_the_filter_too() {
        let mut asked = 0;
        let answer = |_: &Attempt| {
            asked += 1;
            Answer::Make
        };
        let script =
            "import os; os.close(os.eventfd(0)); os.fork() or os._exit(os.eventfd(0) and 0); os.wait()";
        let status = under(&[Call::Eventfd], answer, || {
            std::process::Command::new("python3").args(["-c", script]).status()
        });
        assert!(status.unwrap().unwrap().success());
        assert_eq!(asked, 2);
    }
}
