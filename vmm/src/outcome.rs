//! The outcome of a run, and the event that announces it.
//!
//! vCPU threads, devices and the event loop share one [`ExitEvent`]. The first [`Outcome`] is kept; later ones are
//! its consequences. The lock is not held across a system call.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::error::{Context, Error, Result};

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest powered the machine off.
    PoweredOff,
    /// The guest reset the machine.
    Rebooted,
    /// The guest crashed.
    Crashed(Crash),
    /// The guest's kernel has panicked, and said so by [`pvpanic`](crate::devices::pvpanic).
    Panicked,
    /// The guest has written this value to the [debug-exit port](crate::devices::debug_exit).
    DebugExit(u32),
    /// This signal ended the VMM before the guest ended.
    Stopped(i32),
    /// The host failed.
    Failed(Error),
}

/// Cause and location of a guest crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// Index of the vCPU, from 0.
    pub vcpu: u16,
    /// The cause.
    pub what: String,
    /// The vCPU's instruction pointer, if known.
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

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => out.write_str("the guest powered off"),
            Self::Rebooted => out.write_str("the guest rebooted, which ends the run"),
            Self::Crashed(crash) => crash.fmt(out),
            Self::Panicked => out.write_str("the guest's kernel panicked"),
            Self::DebugExit(value) => write!(out, "the guest wrote {value:#x} to the debug-exit port"),
            Self::Stopped(signal) => write!(out, "ended by signal {signal}"),
            Self::Failed(error) => error.fmt(out),
        }
    }
}

impl Outcome {
    /// Whether the guest ended as it wanted to.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        matches!(self, Self::PoweredOff | Self::Rebooted | Self::DebugExit(_))
    }

    /// The exit status of the process.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::PoweredOff | Self::Rebooted => 0,
            Self::Failed(error) => error.exit_status(),
            Self::Crashed(_) => 3,
            Self::Panicked => 4,
            // The host keeps 8 bits of the status.
            Self::DebugExit(value) => value.to_le_bytes()[0] << 1 | 1,
            Self::Stopped(signal) => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
        }
    }
}

/// Holds the first outcome and wakes the event loop.
#[derive(Debug)]
pub struct ExitEvent {
    outcome: Mutex<Option<Outcome>>,
    is_signalled: AtomicBool,
    eventfd: EventFd,
}

impl ExitEvent {
    /// Creates an event that is not signalled.
    ///
    /// # Errors
    /// [`Error::Host`] if the host refuses the eventfd.
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
            tracing::error!("cannot wake the event loop to end the run: {error}");
        }
    }

    /// Whether the run has ended.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        self.is_signalled.load(Ordering::Acquire)
    }

    /// The eventfd, readable once the run has ended.
    #[must_use]
    pub fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }

    /// Takes the outcome. Only the first call after the end returns it.
    #[must_use]
    pub fn take(&self) -> Option<Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Ends the run if the thread that owns the guard panics.
#[derive(Debug)]
pub struct PanicGuard {
    /// The run's exit event.
    pub exit_event: Arc<ExitEvent>,
    /// The work of the thread, for the message.
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
            (Outcome::Panicked, 4),
            (Outcome::DebugExit(0), 1),
            (Outcome::DebugExit(0x1_0021), 0x43),
            (Outcome::Stopped(15), 143),
        ];
        for (outcome, status) in statuses {
            assert_eq!(outcome.exit_status(), status, "{outcome:?}");
        }
    }
}
