//! Operations by io_uring: one ring for each queue.
//!
//! A ring is restricted (IORING_REGISTER_RESTRICTIONS) to the operations of a disk, on the disk's file: the kernel refuses other
//! opcodes, other descriptors and further registrations. A host without restrictions counts as one without io_uring.
//!
//! Contains `unsafe`: the kernel uses an operation's buffers until it has ended. Invariant: an operation is in
//! `operations` from before its submission until its completion was taken, so its buffers live as long. Dropping the ring
//! waits for the operations in flight.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, Probe, opcode};
use rustix::fs::{OFlags, fcntl_getfl};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::engine::{Engine, Finished};
use super::operation::{Kind, Operation};

/// The opcodes that a disk needs.
const OPCODES: [u8; 4] =
    [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];

/// The disk's file in the ring's table of files, which has no other.
const DISK: Fixed = Fixed(0);

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
        if !OPCODES.iter().all(|opcode| probe.is_supported(*opcode)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Self::new(2, &File::open("/dev/null")?).map(drop)
    }

    /// A ring for up to `entries` operations on `file`, and on no other.
    ///
    /// # Errors
    /// The host refuses the ring, its restrictions or the eventfd.
    pub(super) fn new(entries: u16, file: &File) -> io::Result<Self> {
        let ring = IoUring::builder().setup_r_disabled().build(entries.into())?;
        let eventfd = EventFd::new(EFD_NONBLOCK)?;
        let submitter = ring.submitter();
        submitter.register_eventfd(eventfd.as_raw_fd())?;
        let disk = without_lock(file);
        submitter.register_files(&[disk.as_ref().unwrap_or(file).as_raw_fd()])?;
        let opcodes = OPCODES.into_iter().map(Restriction::sqe_op);
        let on_disk = Restriction::sqe_flags_required(Flags::FIXED_FILE.bits());
        let mut restrictions: Vec<_> = opcodes.chain([on_disk]).collect();
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(Self { ring, eventfd, operations: (0..entries).map(|_| None).collect() })
    }

    fn entry(tag: u16, operation: &Operation) -> Entry {
        let (iovecs, count) = (operation.iovecs.as_ptr(), operation.iovecs.len());
        let entry = match operation.kind {
            Kind::Read => opcode::Readv::new(DISK, iovecs, count).offset(operation.offset).build(),
            Kind::Write(durability) => {
                let write = opcode::Writev::new(DISK, iovecs, count).offset(operation.offset);
                write.rw_flags(durability.flags()).build()
            }
            Kind::Sync => opcode::Fsync::new(DISK).flags(FsyncFlags::DATASYNC).build(),
            Kind::PunchHole | Kind::ZeroRange => {
                let fallocate = opcode::Fallocate::new(DISK, operation.len);
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

/// The file, opened anew. The kernel gives a ring's file back some time after the ring's process has ended, and the image's lock
/// belongs to the file as it was opened: with that one in the ring, the next VMM could find the image in use. `None` if the host refuses.
fn without_lock(file: &File) -> Option<File> {
    let access = fcntl_getfl(file).ok()? & OFlags::RWMODE;
    let mut options = File::options();
    let options = options.read(access != OFlags::WRONLY).write(access != OFlags::RDONLY);
    options.open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

#[cfg(test)]
mod tests {
    use io_uring::types::Fd;

    use super::*;

    /// What a ring over /dev/null answers to an entry that the VMM does not make.
    fn answer(entry: Entry) -> io::Error {
        let mut uring = Uring::new(2, &File::open("/dev/null").unwrap()).unwrap();
        // SAFETY: the entries of these tests have no buffers, or static ones.
        unsafe { uring.ring.submission().push(&entry) }.unwrap();
        uring.ring.submit_and_wait(1).unwrap();
        io::Error::from_raw_os_error(-uring.ring.completion().next().unwrap().result())
    }

    /// Says why, where the host has no restricted io_uring.
    fn is_skipped() -> bool {
        Uring::probe()
            .inspect_err(|error| println!("SKIPPED: this host has no restricted io_uring: {error}"))
            .is_err()
    }

    #[test]
    fn a_ring_refuses_operations_that_are_no_disks() {
        if is_skipped() {
            return;
        }
        let path = c"/dev/zero";
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).flags(libc::O_RDONLY).build();
        assert_eq!(answer(open).raw_os_error(), Some(libc::EACCES));
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build();
        assert_eq!(answer(socket).raw_os_error(), Some(libc::EACCES));
        assert_eq!(answer(opcode::Nop::new().build()).raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn a_ring_refuses_every_file_but_its_disk() {
        if is_skipped() {
            return;
        }
        let other = File::open("/dev/zero").unwrap();
        let entry = opcode::Fsync::new(Fd(other.as_raw_fd())).build();
        assert_eq!(answer(entry).raw_os_error(), Some(libc::EACCES));
        let entry = opcode::Fsync::new(Fixed(1)).build();
        assert_eq!(answer(entry).raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_ring_in_use_takes_no_further_registrations() {
        if is_skipped() {
            return;
        }
        let file = File::open("/dev/null").unwrap();
        let uring = Uring::new(2, &file).unwrap();
        let refused = uring.ring.submitter().register_files_update(0, &[file.as_raw_fd()]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    }
}
