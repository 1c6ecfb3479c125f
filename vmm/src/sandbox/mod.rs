//! The system calls of each thread, while a guest runs.
//!
//! Invariant: when the first vCPU runs, every thread of the VMM has the seccomp filter of its [`Kind`], unless the VMM was started with
//! `--sandbox off`. A thread installs its filter as its first act ([`enter`]), and cannot remove it. The main thread opens and makes
//! everything before it installs its own. A call outside of a filter ends the process with [`EXIT_STATUS`], by `violation.rs`.
//!
//! | Module | Owns |
//! |---|---|
//! | `kind` | the kinds of threads, and the calls of each |
//! | `calls`, `ioctls` | names of calls, calls that every thread makes, and requests of ioctl |
//! | `filter` | a kind's seccomp programs |
//! | `violation` | the handler of SIGSYS |
//! | `inherited` | descriptors that the VMM was started with |
//!
//! There is no lock: the programs are made once, before there are threads.

mod calls;
mod filter;
mod inherited;
mod ioctls;
mod kind;
#[cfg(test)]
mod tests;
mod violation;

use std::sync::OnceLock;

use filter::Filters;
pub use inherited::Inherited;
pub use kind::Kind;

use crate::error::{Context, Result};

/// The exit status after a call outside of a thread's filter.
pub const EXIT_STATUS: u8 = 5;

/// The programs of all kinds. Without them, [`enter`] does nothing.
static FILTERS: OnceLock<Vec<(Kind, Filters)>> = OnceLock::new();

/// Makes the programs and handles SIGSYS. Threads that call [`enter`] afterwards are confined.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host) if a program cannot be made, or the host refuses the handler.
pub fn start() -> Result<()> {
    let made: Result<Vec<_>> = Kind::ALL.iter().map(|kind| Ok((*kind, Filters::of(*kind)?))).collect();
    let made = made?;
    violation::handle().context("handling SIGSYS")?;
    // A second start leaves the programs as they are.
    let _ = FILTERS.set(made);
    Ok(())
}

/// Confines the calling thread to the calls of `kind`. Signals that the event loop handles are blocked in other threads.
///
/// Ends the process with status 1 if the host refuses: no guest may run without a filter unless `--sandbox off` says so.
pub fn enter(kind: Kind) {
    let Some(made) = FILTERS.get() else { return };
    let filters = made.iter().find(|(other, _)| *other == kind).map(|(_, filters)| filters);
    let entered = filters.map_or(Ok(()), |filters| {
        kind.block_signals();
        filters.install()
    });
    if let Err(error) = entered {
        crate::serial::terminal::restore();
        eprintln!("vmm: {error}; --sandbox off runs without seccomp");
        std::process::exit(1);
    }
}
