//! The handler of SIGSYS: says which thread made which forbidden call, and ends the process.
//!
//! Contains `unsafe` for the interrupted thread's registers and for calls that a signal handler may make. The handler takes no lock
//! that it could wait for, and does not allocate.

use std::fmt::Write;

use libc::{c_int, c_void, siginfo_t, ucontext_t};
use vmm_sys_util::signal::register_signal_handler;

use super::EXIT_STATUS;
use super::calls::name;
use crate::serial::terminal;

/// `si_code` of a SIGSYS from a seccomp filter (asm-generic/siginfo.h).
const SYS_SECCOMP: c_int = 1;

/// Installs the handler.
///
/// # Errors
/// The host refuses it.
pub(super) fn handle() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(libc::SIGSYS, end)
}

extern "C" fn end(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let code = unsafe { info.as_ref() }.map(|info| info.si_code);
    // A SIGSYS that another process has sent.
    if code != Some(SYS_SECCOMP) {
        return;
    }
    // SAFETY: the kernel passes the interrupted thread's context.
    let context = unsafe { context.cast::<ucontext_t>().as_ref() };
    let registers = context.map(|context| context.uc_mcontext.gregs).unwrap_or_default();
    let register = |index: c_int| registers.get(index as usize).copied().unwrap_or_default();
    let call = Call {
        number: register(libc::REG_RAX),
        arguments: [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(register),
    };
    terminal::restore_in_signal_handler();
    let mut line = Line::default();
    // A full line is cut short.
    let _ = call.describe(&thread_name(), &mut line);
    // SAFETY: the bytes are initialised. Nothing can be done about an error.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length) };
    // SAFETY: the process ends without handlers of its end, as another thread may be in any state.
    unsafe { libc::_exit(EXIT_STATUS.into()) }
}

/// The calling thread's name, padded with zeroes.
fn thread_name() -> [u8; 16] {
    let mut name = [0; 16];
    // SAFETY: PR_GET_NAME writes 16 bytes at most, with a zero at the end.
    let _ = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// A forbidden call.
struct Call {
    number: i64,
    arguments: [i64; 3],
}

impl Call {
    fn describe(&self, thread: &[u8; 16], out: &mut Line) -> std::fmt::Result {
        let thread = std::ffi::CStr::from_bytes_until_nul(thread).ok().and_then(|name| name.to_str().ok());
        write!(out, "vmm: sandbox: thread {:?} made the forbidden system call ", thread.unwrap_or("?"))?;
        match name(self.number) {
            Some(name) => out.write_str(name)?,
            None => write!(out, "{}", self.number)?,
        }
        let [first, second, third] = self.arguments;
        writeln!(out, "({first:#x}, {second:#x}, {third:#x}, ...)")
    }
}

/// A line without an allocation.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 256], length: 0 }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        let room = room.get_mut(..text.len()).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = self.length.saturating_add(text.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_thread_and_the_call() {
        let mut line = Line::default();
        let mut thread = [0; 16];
        thread[..6].copy_from_slice(b"vcpu 1");
        let call = Call { number: libc::SYS_socket, arguments: [2, 1, 0] };
        call.describe(&thread, &mut line).unwrap();
        assert_eq!(
            str::from_utf8(&line.bytes[..line.length]).unwrap(),
            "vmm: sandbox: thread \"vcpu 1\" made the forbidden system call socket(0x2, 0x1, 0x0, ...)\n"
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_short() {
        let mut line = Line::default();
        assert!(line.write_str(&"x".repeat(200)).is_ok());
        assert!(line.write_str(&"x".repeat(57)).is_err());
        assert_eq!(line.length, 200);
    }
}
