//! Which CPUs of a lab host run commands: all but the first.
//!
//! QEMU (seen in 10.0) lets every emulated CPU that loads FPU state write to the *first* CPU's SVM flags without a
//! lock (`cpu_clear_ignne`: the flags share a word with IGNNE#). Where the first CPU enters or leaves a guest at that
//! moment, its change is undone: the global interrupt flag stays clear, so that the CPU sleeps through every interrupt
//! from then on (seen: halted, RFLAGS.IF set, two vectors in its APIC's IRR); or nested paging stays on or off, and the
//! guest's memory is not the guest's. A CPU that runs no guest has nothing to undo, so the first one runs none.

use rustix::thread::{sched_getaffinity, sched_setaffinity};

use crate::error::{At, Result};

/// How many CPUs QEMU is to have for so many that run commands.
pub(crate) fn emulated(cpus: u8) -> u16 {
    u16::from(cpus) + 1
}

/// Keeps this process, and all that it starts, off the first CPU.
pub(crate) fn leave_the_first() -> Result<()> {
    let mut cpus = sched_getaffinity(None).at("read", "the CPUs of this process")?;
    cpus.unset(0);
    sched_setaffinity(None, &cpus).at("set", "the CPUs of this process")
}
