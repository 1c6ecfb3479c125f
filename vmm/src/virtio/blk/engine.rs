//! The engine of a queue: performs host operations while the queue's thread does other work.
//!
//! An engine owns an operation while it is in flight, and gives it back with the result. A tag names an operation; there is
//! one operation a tag, and there are as many tags as the queue has entries.

use std::fmt;
use std::fs::File;
use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::operation::Operation;
use super::threads::Threads;
use super::uring::Uring;
use crate::error::{Context, Result};

/// An operation that has ended, and the bytes transferred.
pub(in crate::virtio) struct Finished {
    pub(in crate::virtio) tag: u16,
    pub(in crate::virtio) operation: Operation,
    pub(in crate::virtio) result: io::Result<u64>,
}

/// Operations in flight. Dropping an engine waits for them.
pub(in crate::virtio) trait Engine: Send {
    /// Begins an operation, at the latest when [`Engine::flush`] is called.
    ///
    /// # Errors
    /// The host refused it, and it was not begun.
    fn submit(&mut self, tag: u16, operation: Operation) -> std::result::Result<(), (Operation, io::Error)>;

    /// Begins the operations that were submitted.
    fn flush(&mut self);

    /// Takes an operation that has ended.
    fn reap(&mut self) -> Option<Finished>;

    /// Readable when operations have ended. The queue's thread clears it before it reaps.
    fn eventfd(&self) -> &EventFd;
}

/// Which engine the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::virtio) enum EngineKind {
    /// io_uring.
    Uring,
    /// A pool of threads for each queue.
    Threads,
}

impl EngineKind {
    /// io_uring, if the host allows it and has the operations.
    pub(in crate::virtio) fn probe() -> Self {
        match Uring::probe() {
            Ok(()) => Self::Uring,
            Err(error) => {
                tracing::debug!("the host has no io_uring: {error}");
                Self::Threads
            }
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Threads => "threads",
        })
    }
}

/// An engine for a queue with this many entries, of the disk in `file`.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host) if the host has no descriptor or thread.
pub(in crate::virtio) fn engine(kind: EngineKind, entries: u16, file: &File) -> Result<Box<dyn Engine>> {
    Ok(match kind {
        EngineKind::Uring => Box::new(Uring::new(entries, file).context("creating an io_uring for a disk")?),
        EngineKind::Threads => Box::new(Threads::start().context("starting the threads of a disk")?),
    })
}
