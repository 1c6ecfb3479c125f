//! What devices need of the event loop: their models' clocks, and the delivery of what the kernel has no room for. Where the
//! host refuses to have the one or the other watched, clocks are looked at here now and then, and
//! [`upkeep`](super::upkeep) delivers.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::timerfd::TimerFd;

use super::device::{Device, Model};
use crate::error::{Doing, Result};

/// How late a model wakes up at most where the host has not taken the time that its clock was set to.
const PERIOD: Duration = Duration::from_millis(100);

/// A device, as the event loop knows it.
pub trait Attended: Send + Sync {
    /// Its model's clock, if it has one.
    fn clock(&self) -> Option<RawFd>;
    /// Does what the clock has rung for.
    fn wake(&self, now: Instant);
    /// Tries again what the host refused.
    fn retry(&self);
    /// A descriptor that lives as long as it does, and is readable while there is something to deliver.
    fn relay_fd(&self) -> Option<RawFd>;
    /// Delivers what the kernel has no room for.
    fn deliver_relayed(&self);
}

impl<M: Model> Attended for Device<M> {
    fn clock(&self) -> Option<RawFd> {
        Device::clock(self)
    }

    fn wake(&self, now: Instant) {
        Device::wake(self, now);
    }

    fn retry(&self) {
        Device::retry(self);
    }

    fn relay_fd(&self) -> Option<RawFd> {
        self.interrupts().slots.relay_fd()
    }

    fn deliver_relayed(&self) {
        self.interrupts().slots.deliver_relayed();
    }
}

/// A device with its descriptors, which live as long as it does.
struct Watched {
    clock: Option<RawFd>,
    relay: Option<RawFd>,
    device: Arc<dyn Attended>,
}

/// A subscriber of the event loop, for all devices.
pub struct DeviceEvents {
    again: TimerFd,
    devices: Vec<Watched>,
}

impl DeviceEvents {
    /// From now on the devices' clocks ring: add this to the event loop at once.
    ///
    /// # Errors
    /// The host has no timer left.
    pub fn new(devices: Vec<Arc<dyn Attended>>) -> Result<Self> {
        let mut again = TimerFd::new().doing("creating a timer")?;
        again.reset(PERIOD, Some(PERIOD)).doing("starting a timer")?;
        let devices = devices.into_iter().map(|device| {
            let (clock, relay) = (device.clock(), device.relay_fd());
            Watched { clock, relay, device }
        });
        Ok(Self { again, devices: devices.collect() })
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let now = Instant::now();
        let is_again = events.fd() == self.again.as_raw_fd();
        if is_again && let Err(error) = self.again.wait() {
            tracing::warn!("the clock of the devices' interrupts: {error}");
        }
        for Watched { clock, relay, device } in &self.devices {
            if *relay == Some(events.fd()) {
                device.deliver_relayed();
            }
            // Now and then also where its clock is silent. One that has none is not waited for.
            if clock.is_some_and(|clock| is_again || clock == events.fd()) {
                device.wake(now);
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let theirs = self.devices.iter().flat_map(|device| [device.clock, device.relay]).flatten();
        for descriptor in theirs.chain([self.again.as_raw_fd()]) {
            if let Err(error) = ops.add(Events::new(&descriptor, EventSet::IN)) {
                tracing::warn!("a device's clock or interrupts are heard only now and then: {error}");
            }
        }
    }
}
