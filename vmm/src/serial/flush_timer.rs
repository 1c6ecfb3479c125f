//! The timer that flushes serial output without a newline, such as a prompt or an echo.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use crate::error::{Context, Result};

/// The maximum delay of a byte, short enough for interactive use.
const FLUSH_DELAY: Duration = Duration::from_millis(10);

/// The timer, running while output is buffered. Its lock is taken under the registers' lock and held for one system
/// call.
#[derive(Debug)]
pub(super) struct FlushTimer(Mutex<TimerFd>);

impl FlushTimer {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Mutex::new(TimerFd::new().context("creating a timer")?)))
    }

    /// Starts the timer when the first byte is buffered.
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
