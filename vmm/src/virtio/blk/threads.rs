//! Operations by a pool of threads for each queue, on hosts without io_uring.
//!
//! [`THREADS`] threads take operations in turn, so a queue has that many operations at work in the host. Page cache hits
//! need no more, and a disk's flush does not stop its reads. One lock protects both lists, and is not held during an
//! operation.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::engine::{Engine, Finished};
use super::operation::Operation;
use crate::sandbox::{self, Kind};

/// Threads of a queue.
const THREADS: usize = 4;

#[derive(Default)]
struct Lists {
    waiting: VecDeque<(u16, Operation)>,
    finished: VecDeque<Finished>,
    is_ending: bool,
}

struct Shared {
    lists: Mutex<Lists>,
    /// An operation waits, or the threads are to end.
    work: Condvar,
    eventfd: EventFd,
}

/// A pool. Dropping it ends the threads, after the operations in flight.
pub(super) struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts the threads.
    ///
    /// # Errors
    /// The host refuses a thread or the eventfd.
    pub(super) fn start() -> io::Result<Self> {
        let eventfd = EventFd::new(EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { lists: Mutex::default(), work: Condvar::new(), eventfd });
        let mut pool = Self { shared, threads: Vec::new() };
        for _ in 0..THREADS {
            let shared = Arc::clone(&pool.shared);
            let run = move || {
                sandbox::enter(Kind::DiskWorker);
                shared.run();
            };
            pool.threads.push(Builder::new().name("disk".into()).spawn(run)?);
        }
        Ok(pool)
    }
}

impl Shared {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut lists = self.lists();
        loop {
            if let Some((tag, operation)) = lists.waiting.pop_front() {
                drop(lists);
                let result = operation.perform();
                lists = self.lists();
                lists.finished.push_back(Finished { tag, operation, result });
                // The write fails only if the counter is full, which is readable, too.
                let _ = self.eventfd.write(1);
            } else if lists.is_ending {
                return;
            } else {
                lists = self.work.wait(lists).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Engine for Threads {
    fn submit(&mut self, tag: u16, operation: Operation) -> Result<(), (Operation, io::Error)> {
        self.shared.lists().waiting.push_back((tag, operation));
        self.shared.work.notify_one();
        Ok(())
    }

    fn flush(&mut self) {}

    fn reap(&mut self) -> Option<Finished> {
        self.shared.lists().finished.pop_front()
    }

    fn eventfd(&self) -> &EventFd {
        &self.shared.eventfd
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lists().is_ending = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk's thread panicked");
            }
        }
    }
}
