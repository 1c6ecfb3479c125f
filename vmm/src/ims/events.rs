//! What devices need of the event loop: their models' clocks, and one that tries again what the host refused to deliver.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vm_msi::Router;
use vmm_sys_util::timerfd::TimerFd;

use super::device::{Device, Model};
use crate::error::{Doing, Result};

/// How long an interrupt waits at most after the host could deliver it.
const PERIOD: Duration = Duration::from_millis(100);

/// A device, as the event loop knows it.
pub trait Attended: Send + Sync {
    /// Its model's clock, if it has one.
    fn clock(&self) -> Option<RawFd>;
    /// Does what the clock has rung for.
    fn wake(&self, now: Instant);
    /// Tries again what the host refused.
    fn retry(&self);
}

impl<M: Model, R: Router> Attended for Device<M, R> {
    fn clock(&self) -> Option<RawFd> {
        Device::clock(self)
    }

    fn wake(&self, now: Instant) {
        Device::wake(self, now);
    }

    fn retry(&self) {
        self.interrupts().retry();
    }
}

/// A subscriber of the event loop, for all devices.
pub struct DeviceEvents {
    again: TimerFd,
    /// With their clocks, which live as long as they do.
    devices: Vec<(Option<RawFd>, Arc<dyn Attended>)>,
}

impl DeviceEvents {
    /// From now on the devices' clocks ring: add this to the event loop at once.
    ///
    /// # Errors
    /// The host has no timer left.
    pub fn new(devices: Vec<Arc<dyn Attended>>) -> Result<Self> {
        let mut again = TimerFd::new().doing("creating a timer")?;
        again.reset(PERIOD, Some(PERIOD)).doing("starting a timer")?;
        let devices = devices.into_iter().map(|device| (device.clock(), device)).collect();
        Ok(Self { again, devices })
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let now = Instant::now();
        let is_again = events.fd() == self.again.as_raw_fd();
        if is_again && let Err(error) = self.again.wait() {
            tracing::warn!("the clock of the devices' interrupts: {error}");
        }
        for (clock, device) in &self.devices {
            if is_again {
                device.retry();
            }
            // Now and then also where its clock is silent: the host may not have taken the time that it was set to.
            if is_again || *clock == Some(events.fd()) {
                device.wake(now);
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let clocks = self.devices.iter().filter_map(|(clock, _)| *clock);
        for clock in clocks.chain([self.again.as_raw_fd()]) {
            if let Err(error) = ops.add(Events::new(&clock, EventSet::IN)) {
                tracing::error!("a device's clock is not heard: {error}");
            }
        }
    }
}
