//! Hands on what waits at the end of the serial line without being a line: a prompt, an echo.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use crate::error::{Context, Result};

/// How long a byte waits at most: too short for a person to see.
const FLUSH_DELAY: Duration = Duration::from_millis(10);

/// The clock that runs while bytes wait. Its lock is taken under the registers' and held for one system call.
#[derive(Debug)]
pub(super) struct FlushTimer(Mutex<TimerFd>);

impl FlushTimer {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Mutex::new(TimerFd::new().context("creating a timer")?)))
    }

    /// Starts the clock for the first byte that waits.
    pub(super) fn start(&self) {
        if let Err(error) = self.timer(|timer| timer.reset(FLUSH_DELAY, None)) {
            tracing::warn!("serial output may be late: {error}");
        }
    }

    /// The timer's descriptor, readable once the delay has passed.
    pub(super) fn descriptor(&self) -> RawFd {
        self.timer(|timer| timer.as_raw_fd())
    }

    /// Clears the timer's descriptor.
    pub(super) fn acknowledge(&self) {
        if let Err(error) = self.timer(TimerFd::wait) {
            tracing::debug!("cannot read the serial port's flush timer: {error}");
        }
    }

    fn timer<T>(&self, act: impl FnOnce(&mut TimerFd) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
