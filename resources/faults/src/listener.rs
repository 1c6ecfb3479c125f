//! The filter of a thread, and the listener that its calls wait for (seccomp_unotify(2)).
//!
//! All `unsafe` of this crate is here: the system calls that have no wrapper in rustix.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Answer, Call};

/// How long [`Listener::next`] waits.
const PERIOD: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Offsets in `struct seccomp_data`: the number of the call, and the low half of its second argument.
const NUMBER: u32 = 0;
const SECOND_ARGUMENT: u32 = 24;

/// Offset of the flags in `struct kvm_irqfd`, and the one of a detach (linux/kvm.h).
const IRQFD_FLAGS: u64 = 8;
const IRQFD_DEASSIGN: u32 = 1;

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    id: u64,
    /// Which one.
    pub call: Call,
    /// The thread that makes it.
    pub thread: u32,
    /// Its arguments, as in registers.
    pub arguments: [u64; 6],
}

impl Attempt {
    /// The name of the thread that makes it (proc(5), `comm`), or nothing where it has ended.
    #[must_use]
    pub fn thread_name(&self) -> String {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.thread)).unwrap_or_default();
        name.trim_end().to_owned()
    }

    /// Tells a detach from an attach.
    fn look_closer(&mut self) -> io::Result<()> {
        if self.call == Call::KvmIrqfdAttach {
            let mut flags = [0; 4];
            let [_, _, irqfd, ..] = self.arguments;
            self.read(irqfd.wrapping_add(IRQFD_FLAGS), &mut flags)?;
            if u32::from_ne_bytes(flags) & IRQFD_DEASSIGN != 0 {
                self.call = Call::KvmIrqfdDetach;
            }
        }
        Ok(())
    }

    /// What the thread that waits has in its memory.
    fn read(&self, address: u64, to: &mut [u8]) -> io::Result<()> {
        let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
        let remote =
            libc::iovec { iov_base: ptr::without_provenance_mut(address as usize), iov_len: to.len() };
        // SAFETY: the kernel writes to `to` alone, which is borrowed for as long, and checks the other process's address.
        let read = unsafe {
            libc::process_vm_readv(self.thread as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0)
        };
        match usize::try_from(read) {
            Ok(read) if read == to.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl Listener {
    /// Puts the calling thread, and whatever it starts, under the filter.
    pub(crate) fn install(calls: &[Call]) -> io::Result<Self> {
        rustix::thread::set_no_new_privs(true)?;
        let mut program = program(calls);
        let length = u16::try_from(program.len()).map_err(io::Error::other)?;
        let program = sock_fprog { len: length, filter: program.as_mut_ptr() };
        // SAFETY: the kernel copies the program, whose length is right and which lives until the call returns.
        let listener = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                ptr::from_ref(&program),
            )
        };
        let listener = i32::try_from(listener).ok().filter(|listener| *listener >= 0);
        let listener = listener.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the call has made this descriptor, and nobody else knows of it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(listener) }))
    }

    /// Waits a little for a call.
    pub(crate) fn next(&self) -> io::Result<Option<Attempt>> {
        let mut waits = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut waits, Some(&PERIOD)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            Ok(_) if !waits[0].revents().contains(PollFlags::IN) => {
                // Nothing is under the filter any more. The caller looks whether the work is done.
                std::thread::yield_now();
                return Ok(None);
            }
            waited => drop(waited?),
        }
        // SAFETY: all bits zero is a value of this struct of integers, and the one that the kernel demands.
        let mut notification: seccomp_notif = unsafe { std::mem::zeroed() };
        match self.ask(libc::SECCOMP_IOCTL_NOTIF_RECV, &mut notification) {
            Ok(()) => {}
            // The caller was interrupted or killed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
        let data = notification.data;
        let call = Call::of(data.nr.into(), data.args[1])
            .ok_or_else(|| io::Error::other("a call that was not named"))?;
        let mut attempt =
            Attempt { id: notification.id, call, thread: notification.pid, arguments: data.args };
        attempt.look_closer()?;
        Ok(Some(attempt))
    }

    /// Lets it go on.
    pub(crate) fn answer(&self, attempt: &Attempt, answer: Answer) -> io::Result<()> {
        let mut response = seccomp_notif_resp { id: attempt.id, val: 0, error: 0, flags: 0 };
        match answer {
            // The arguments may have changed meanwhile, which is no matter: this is no protection.
            Answer::Make => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Fail(errno) => response.error = -errno.raw_os_error(),
            Answer::Return(value) => response.val = value,
        }
        match self.ask(libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            answered => answered,
        }
    }

    fn ask<T>(&self, request: libc::Ioctl, about: &mut T) -> io::Result<()> {
        // SAFETY: the two requests of this file read and write one struct each, which `about` is.
        match unsafe { libc::ioctl(self.0.as_fd().as_raw_fd(), request, ptr::from_mut(about)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A classic BPF program that stops at each of these calls. It compares the number, and of an ioctl the request.
fn program(calls: &[Call]) -> Vec<sock_filter> {
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let give = |verdict| statement(libc::BPF_RET | libc::BPF_K, verdict);
    let unless = |value, skip| sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skip,
        k: value,
    };
    let mut program = Vec::new();
    for call in calls {
        program.push(load(NUMBER));
        match call.request() {
            None => program.push(unless(call.number() as u32, 1)),
            Some(request) => {
                program.push(unless(call.number() as u32, 3));
                program.push(load(SECOND_ARGUMENT));
                program.push(unless(request, 1));
            }
        }
        program.push(give(libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program
}

const fn statement(code: u32, value: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k: value }
}
