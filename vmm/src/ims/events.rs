//! Timers of the models and relayed interrupts, on the event loop. If the host refuses to watch a timer, this
//! subscriber polls it. If the host refuses to watch a relay descriptor, [`maintenance`](super::maintenance) delivers
//! the interrupts.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::device::{Device, Model};
use crate::error::Result;
use crate::events::RetryTimer;

/// A device on the event loop.
pub trait EventDevice: Send + Sync {
    /// The model's timer, if any.
    fn timer_fd(&self) -> Option<RawFd>;
    /// Handles an expired timer.
    fn on_timer(&self, now: Instant);
    /// Retries refused host calls.
    fn retry(&self);
    /// A descriptor that is ready while a relayed interrupt is pending. It lives as long as the device.
    fn relay_fd(&self) -> Option<RawFd>;
    /// Delivers relayed interrupts.
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

/// An event loop subscriber for all devices.
pub struct DeviceEvents {
    retry_timer: RetryTimer,
    devices: Vec<Watched>,
}

impl DeviceEvents {
    /// Creates the subscriber. Add it to the event loop at once: the devices' timers wait for it.
    ///
    /// # Errors
    /// The host refuses a timer.
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
            // Poll a timer that the host refused to watch.
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
