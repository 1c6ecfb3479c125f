//! What devices need of the event loop: their models' clocks, and the delivery of what the kernel has no room for. Where the
//! host refuses to have the one or the other watched, clocks are looked at here now and then, and
//! [`maintenance`](super::maintenance) delivers.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::device::{Device, Model};
use crate::error::Result;
use crate::events::RetryTimer;

/// A device, as the event loop knows it.
pub trait EventDevice: Send + Sync {
    /// Its model's clock, if it has one.
    fn timer_fd(&self) -> Option<RawFd>;
    /// Does what the clock has rung for.
    fn on_timer(&self, now: Instant);
    /// Tries again what the host refused.
    fn retry(&self);
    /// A descriptor that lives as long as it does, and is readable while there is something to deliver.
    fn relay_fd(&self) -> Option<RawFd>;
    /// Delivers what the kernel has no room for.
    fn deliver_relayed(&self);
}

impl<M: Model> EventDevice for Device<M> {
    fn timer_fd(&self) -> Option<RawFd> {
        Device::timer_fd(self)
    }

    fn on_timer(&self, now: Instant) {
        Device::on_timer(self, now);
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
    timer_fd: Option<RawFd>,
    relay: Option<RawFd>,
    device: Arc<dyn EventDevice>,
}

/// A subscriber of the event loop, for all devices.
pub struct DeviceEvents {
    retry_timer: RetryTimer,
    devices: Vec<Watched>,
}

impl DeviceEvents {
    /// From now on the devices' clocks ring: add this to the event loop at once.
    ///
    /// # Errors
    /// The host has no timer left.
    pub fn new(devices: Vec<Arc<dyn EventDevice>>) -> Result<Self> {
        let retry_timer = RetryTimer::start()?;
        let devices = devices.into_iter().map(|device| {
            let (timer_fd, relay) = (device.timer_fd(), device.relay_fd());
            Watched { timer_fd, relay, device }
        });
        Ok(Self { retry_timer, devices: devices.collect() })
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let now = Instant::now();
        let is_retry = events.fd() == self.retry_timer.as_raw_fd();
        if is_retry {
            self.retry_timer.acknowledge();
        }
        for Watched { timer_fd, relay, device } in &self.devices {
            if *relay == Some(events.fd()) {
                device.deliver_relayed();
            }
            // Now and then also where its clock is silent. One that has none is not waited for.
            if timer_fd.is_some_and(|timer_fd| is_retry || timer_fd == events.fd()) {
                device.on_timer(now);
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let theirs = self.devices.iter().flat_map(|device| [device.timer_fd, device.relay]).flatten();
        for descriptor in theirs.chain([self.retry_timer.as_raw_fd()]) {
            if let Err(error) = ops.add(Events::new(&descriptor, EventSet::IN)) {
                tracing::warn!(
                    "a device timer or relay eventfd is polled, because it cannot be watched: {error}"
                );
            }
        }
    }
}
