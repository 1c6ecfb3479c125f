//! The clock that tries again what the host refused for the devices' interrupts: a vector without a host interrupt is
//! held, and becomes live as soon as the host has one again.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::timerfd::TimerFd;

use super::device::Device;
use crate::error::{Doing, Result};

/// How long a vector waits at most after the host could serve it.
const PERIOD: Duration = Duration::from_millis(100);

/// A subscriber of the event loop.
pub struct Retry {
    timer: TimerFd,
    devices: Vec<Arc<Device>>,
}

impl Retry {
    /// A clock for these devices.
    ///
    /// # Errors
    /// The host's, when it has no timer.
    pub fn new(devices: Vec<Arc<Device>>) -> Result<Self> {
        let mut timer = TimerFd::new().doing("creating a timer")?;
        timer.reset(PERIOD, Some(PERIOD)).doing("starting a timer")?;
        Ok(Self { timer, devices })
    }
}

impl MutEventSubscriber for Retry {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        if let Err(error) = self.timer.wait() {
            tracing::warn!("the clock of refused interrupts: {error}");
        }
        for device in &self.devices {
            device.retry();
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.timer.as_raw_fd(), EventSet::IN)) {
            tracing::error!("refused interrupts are not tried again: {error}");
        }
    }
}
