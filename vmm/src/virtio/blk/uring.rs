//! Operations by io_uring: one ring for each queue.
//!
//! Contains `unsafe`: the kernel uses an operation's buffers until it has ended. Invariant: an operation is in
//! `operations` from before its submission until its completion was taken, so its buffers live as long. Dropping the ring
//! waits for the operations in flight.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Probe, opcode};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::engine::{Engine, Finished};
use super::operation::{Kind, Operation};

/// The opcodes that a disk needs.
const OPCODES: [u8; 4] =
    [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];

/// An io_uring and its operations.
pub(super) struct Uring {
    ring: IoUring,
    eventfd: EventFd,
    /// The operations in flight, by tag.
    operations: Vec<Option<Operation>>,
}

impl Uring {
    /// Whether the host allows io_uring and has the operations.
    ///
    /// # Errors
    /// The host's error, or `Unsupported`.
    pub(super) fn probe() -> io::Result<()> {
        let ring = IoUring::new(2)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if OPCODES.iter().all(|opcode| probe.is_supported(*opcode)) {
            return Ok(());
        }
        Err(io::ErrorKind::Unsupported.into())
    }

    /// A ring for up to `entries` operations.
    ///
    /// # Errors
    /// The host refuses the ring or the eventfd.
    pub(super) fn new(entries: u16) -> io::Result<Self> {
        let ring = IoUring::new(entries.into())?;
        let eventfd = EventFd::new(EFD_NONBLOCK)?;
        ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        Ok(Self { ring, eventfd, operations: (0..entries).map(|_| None).collect() })
    }

    fn entry(tag: u16, operation: &Operation) -> Entry {
        let fd = Fd(operation.file.as_raw_fd());
        let (iovecs, count) = (operation.iovecs.as_ptr(), operation.iovecs.len());
        let entry = match operation.kind {
            Kind::Read => opcode::Readv::new(fd, iovecs, count).offset(operation.offset).build(),
            Kind::Write(durability) => {
                let write = opcode::Writev::new(fd, iovecs, count).offset(operation.offset);
                write.rw_flags(durability.flags()).build()
            }
            Kind::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Kind::PunchHole | Kind::ZeroRange => {
                let fallocate = opcode::Fallocate::new(fd, operation.len);
                fallocate.offset(operation.offset).mode(operation.mode()).build()
            }
        };
        entry.user_data(tag.into())
    }
}

impl Engine for Uring {
    fn submit(&mut self, tag: u16, operation: Operation) -> Result<(), (Operation, io::Error)> {
        let Some(slot) = self.operations.get_mut(usize::from(tag)).filter(|slot| slot.is_none()) else {
            return Err((operation, io::ErrorKind::InvalidInput.into()));
        };
        let entry = Self::entry(tag, slot.insert(operation));
        // SAFETY: the buffers are valid until the completion is taken, because the operation stays in its slot.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        match (pushed, slot.take()) {
            (Ok(()), operation) => {
                *slot = operation;
                Ok(())
            }
            (Err(_), Some(operation)) => Err((operation, io::ErrorKind::QuotaExceeded.into())),
            (Err(_), None) => Ok(()),
        }
    }

    fn flush(&mut self) {
        // EBUSY and EAGAIN leave the entries in the ring for the next call. A completion wakes the queue's thread, which
        // calls again.
        if let Err(error) = self.ring.submit() {
            tracing::debug!("submitting to an io_uring: {error}");
            let waiting = self.ring.submission().len();
            if self.operations.iter().flatten().count() <= waiting {
                // No completion will come.
                let _ = self.eventfd.write(1);
            }
        }
    }

    fn reap(&mut self) -> Option<Finished> {
        loop {
            let entry = self.ring.completion().next()?;
            let tag = u16::try_from(entry.user_data()).unwrap_or(u16::MAX);
            let result = u64::try_from(entry.result());
            let result = result.map_err(|_| io::Error::from_raw_os_error(entry.result().saturating_neg()));
            if let Some(operation) = self.operations.get_mut(usize::from(tag)).and_then(Option::take) {
                return Some(Finished { tag, operation, result });
            }
        }
    }

    fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        while self.operations.iter().any(Option::is_some) {
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
            {
                // The kernel may still use the buffers: they are never freed.
                tracing::error!("waiting for an io_uring: {error}");
                std::mem::forget(std::mem::take(&mut self.operations));
                return;
            }
            while self.reap().is_some() {}
        }
    }
}
