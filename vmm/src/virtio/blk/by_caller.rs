//! An engine without threads: the queue's thread performs an operation when it reaps it. Fuzz targets use it, because its order is that
//! of the input.

use std::collections::VecDeque;
use std::io;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::engine::{Engine, EngineKind, Finished};
use super::operation::Operation;
use super::{Disk, DiskImage};
use crate::virtio::device::Model;

struct ByCaller {
    waiting: VecDeque<(u16, Operation)>,
    eventfd: EventFd,
}

impl Engine for ByCaller {
    fn submit(&mut self, tag: u16, operation: Operation) -> Result<(), (Operation, io::Error)> {
        if let Err(error) = self.eventfd.write(1) {
            return Err((operation, error));
        }
        self.waiting.push_back((tag, operation));
        Ok(())
    }

    fn flush(&mut self) {}

    fn reap(&mut self) -> Option<Finished> {
        let (tag, operation) = self.waiting.pop_front()?;
        let result = operation.perform();
        Some(Finished { tag, operation, result })
    }

    fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }
}

impl Disk {
    /// A disk with one queue whose operations its lane performs.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(crate) fn by_caller(image: DiskImage, name: String) -> io::Result<Model> {
        let engine = ByCaller { waiting: VecDeque::new(), eventfd: EventFd::new(EFD_NONBLOCK)? };
        Ok(Self::with_engines(image, name, EngineKind::Threads, vec![Box::new(engine)]))
    }
}
