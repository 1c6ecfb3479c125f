//! Hands on what waits at the end of the serial line without being a line: a prompt, an echo.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::timerfd::TimerFd;

use super::Port;
use crate::error::{Doing, Result};

/// How long a byte waits at most: too short for a person to see.
const PATIENCE: Duration = Duration::from_millis(10);

/// The clock that runs while bytes wait. Its lock is taken under the registers' and held for one system call.
#[derive(Debug)]
pub(super) struct Clock(Mutex<TimerFd>);

impl Clock {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Mutex::new(TimerFd::new().doing("creating a timer")?)))
    }

    /// Starts the clock for the first byte that waits.
    pub(super) fn start(&self) {
        if let Err(error) = self.timer(|timer| timer.reset(PATIENCE, None)) {
            tracing::warn!("serial output may be late: {error}");
        }
    }

    fn timer<T>(&self, act: impl FnOnce(&mut TimerFd) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The event loop's part.
pub struct Flusher(pub Arc<Port>);

impl MutEventSubscriber for Flusher {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let clock = self.0.clock();
        if let Err(error) = clock.timer(TimerFd::wait) {
            tracing::debug!("the serial line's clock: {error}");
        }
        self.0.hand_on();
    }

    fn init(&mut self, ops: &mut EventOps) {
        let timer = self.0.clock().timer(|timer| timer.as_raw_fd());
        if let Err(error) = ops.add(Events::new_raw(timer, EventSet::IN)) {
            tracing::error!("serial output that is no line will be late: {error}");
        }
    }
}
