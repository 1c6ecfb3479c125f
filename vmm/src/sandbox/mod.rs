//! What each thread of the VMM may do while a guest runs: its system calls, the files that it can open, and its capabilities.
//!
//! Invariant: when the first vCPU runs, every thread of the VMM has the seccomp filter of its [`Kind`], is in the Landlock domain where
//! the host has Landlock, and has only the capabilities of its kind, unless the VMM was started with `--sandbox off`. A thread confines
//! itself as its first act ([`enter`]), and cannot undo it. The main thread opens and makes everything before it confines itself. A
//! call outside of a filter ends the process with [`EXIT_STATUS`], by `violation.rs`.
//!
//! | Module | Owns |
//! |---|---|
//! | `kind` | the kinds of threads, and the calls and capabilities of each |
//! | `calls`, `ioctls` | names of calls, calls that every thread makes, and requests of ioctl |
//! | `filter` | a kind's seccomp programs |
//! | `domain` | the Landlock domain of all threads |
//! | `violation` | the handler of SIGSYS |
//! | `inherited` | descriptors that the VMM was started with |
//!
//! There is no lock: programs and domain are made once, before there are threads.

mod calls;
mod domain;
#[cfg(test)]
mod domain_tests;
mod filter;
mod inherited;
mod ioctls;
mod kind;
#[cfg(test)]
mod tests;
mod violation;

use std::sync::OnceLock;

use domain::Domain;
pub use domain::Named;
use filter::Filters;
pub use inherited::Inherited;
pub use kind::Kind;
use rustix::thread::CapabilitySet;

use crate::error::{Context, Result};
use crate::privileges;

/// The exit status after a call outside of a thread's filter.
pub const EXIT_STATUS: u8 = 5;

/// What confines the threads. Without it, [`enter`] does nothing.
static SANDBOX: OnceLock<Sandbox> = OnceLock::new();

struct Sandbox {
    kinds: Vec<(Kind, Filters, CapabilitySet)>,
    /// `None` on a host without Landlock.
    domain: Option<Domain>,
}

/// Makes the programs and the domain, and handles SIGSYS. Threads that call [`enter`] afterwards are confined, and use no files by
/// name but these.
///
/// # Errors
/// [`Error::Host`](crate::error::Error::Host) if a program or the domain cannot be made, or the host refuses the handler.
pub fn start(named: Named) -> Result<()> {
    let confine = |kind: &Kind| Ok((*kind, Filters::of(*kind)?, kind.capabilities(named)));
    let kinds: Result<Vec<_>> = Kind::ALL.iter().map(confine).collect();
    let sandbox = Sandbox { kinds: kinds?, domain: Domain::new(named)? };
    violation::handle().context("handling SIGSYS")?;
    // A second start leaves everything as it is.
    let _ = SANDBOX.set(sandbox);
    Ok(())
}

/// Confines the calling thread to what `kind` does. Signals that the event loop handles are blocked in other threads.
///
/// Ends the process with status 1 if the host refuses: no guest may run unconfined unless `--sandbox off` says so.
pub fn enter(kind: Kind) {
    let Some(sandbox) = SANDBOX.get() else { return };
    if let Err(error) = sandbox.confine(kind) {
        crate::serial::terminal::restore();
        eprintln!("vmm: {error}; --sandbox off runs without the sandbox");
        std::process::exit(1);
    }
}

impl Sandbox {
    /// Confines the calling thread. The filter is last: it forbids the calls of the other steps.
    fn confine(&self, kind: Kind) -> Result<()> {
        kind.block_signals();
        if let Some(domain) = &self.domain {
            domain.enter()?;
        }
        let own = self.kinds.iter().find(|(other, ..)| *other == kind);
        own.map_or(Ok(()), |(_, filters, capabilities)| {
            privileges::keep_only(*capabilities).context("dropping a thread's capabilities")?;
            filters.install()
        })
    }
}
