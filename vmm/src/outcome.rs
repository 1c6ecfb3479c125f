//! How a run ends: said once, by whoever knows first, and heard by the event loop.
//!
//! vCPU threads, devices and the event loop share one [`ExitEvent`]. The first [`Outcome`] stays; later ones are
//! consequences of it. Its lock is held for no system call.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::error::{Context, Error, Result};

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest switched the machine off.
    PoweredOff,
    /// The guest reset the machine.
    Rebooted,
    /// The guest cannot go on.
    Crashed(Crash),
    /// A signal, by number, ended the VMM before the guest ended.
    Stopped(i32),
    /// The host failed.
    Failed(Error),
}

/// Where and why a guest cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// The CPU, from 0.
    pub vcpu: u8,
    /// What happened.
    pub what: String,
    /// The CPU's instruction pointer, where it is still known.
    pub rip: Option<u64>,
}

impl fmt::Display for Crash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "guest crashed: {} on vcpu {}", self.what, self.vcpu)?;
        match self.rip {
            Some(rip) => write!(out, " at rip {rip:#x}"),
            None => write!(out, ", rip unknown"),
        }
    }
}

impl Outcome {
    /// The exit status of the process.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::PoweredOff | Self::Rebooted => 0,
            Self::Failed(error) => error.exit_status(),
            Self::Crashed(_) => 3,
            Self::Stopped(signal) => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
        }
    }
}

/// The place where the first outcome is kept.
#[derive(Debug)]
pub struct ExitEvent {
    outcome: Mutex<Option<Outcome>>,
    is_signalled: AtomicBool,
    eventfd: EventFd,
}

impl ExitEvent {
    /// Nothing has ended yet.
    ///
    /// # Errors
    /// The host's, when it has no eventfd.
    pub fn new() -> Result<Arc<Self>> {
        let eventfd = EventFd::new(EFD_NONBLOCK).context("creating an eventfd")?;
        Ok(Arc::new(Self { outcome: Mutex::new(None), is_signalled: AtomicBool::new(false), eventfd }))
    }

    /// Ends the run with `outcome`, unless it has ended already.
    pub fn signal(&self, outcome: Outcome) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
        self.is_signalled.store(true, Ordering::Release);
        if let Err(error) = self.eventfd.write(1)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::error!("the event loop cannot be told of the end: {error}");
        }
    }

    /// Whether the run has ended.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        self.is_signalled.load(Ordering::Acquire)
    }

    /// Readable once the run has ended.
    #[must_use]
    pub fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }

    /// The outcome, if there is one; it is given once.
    #[must_use]
    pub fn take(&self) -> Option<Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Ends the run if the thread that has it panics.
#[derive(Debug)]
pub struct PanicGuard {
    /// The run.
    pub exit_event: Arc<ExitEvent>,
    /// What the thread does.
    pub context: String,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.exit_event.signal(Outcome::Failed(Error::host(&self.context, "its thread panicked")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_outcome_stays() {
        let exit_event = ExitEvent::new().unwrap();
        assert!(exit_event.take().is_none());
        exit_event.signal(Outcome::PoweredOff);
        exit_event.signal(Outcome::Stopped(15));
        assert_eq!(exit_event.eventfd().read().unwrap(), 2);
        assert!(matches!(exit_event.take(), Some(Outcome::PoweredOff)));
    }

    #[test]
    fn exit_statuses_are_the_contract() {
        let crash = Crash { vcpu: 3, what: "triple fault".into(), rip: Some(0x10) };
        assert_eq!(crash.to_string(), "guest crashed: triple fault on vcpu 3 at rip 0x10");
        let statuses = [
            (Outcome::PoweredOff, 0),
            (Outcome::Rebooted, 0),
            (Outcome::Failed(Error::host("x", "y")), 1),
            (Outcome::Failed(Error::input("x", "y")), 2),
            (Outcome::Crashed(crash), 3),
            (Outcome::Stopped(15), 143),
        ];
        for (outcome, status) in statuses {
            assert_eq!(outcome.exit_status(), status, "{outcome:?}");
        }
    }
}
