//! What takes as long as the host does, on a thread of its own: another try at what the host refused, and the end of what
//! has lingered of slots that a device of the host's fires.
//!
//! Not where interrupts are delivered from userspace at once and clocks are heard ([`events`](super::events)): who does that
//! waits for no commit and for no detach of its own making. Where the host has refused to have that one told of interrupts,
//! they are delivered from here, late.

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::events::EventDevice;
use crate::error::Result;
use crate::events::RetryTimer;

/// A subscriber of an event loop of its own, for all devices.
pub struct Maintenance {
    timer: RetryTimer,
    devices: Vec<Arc<dyn EventDevice>>,
}

impl Maintenance {
    /// From now on what the host refuses is tried again: have it run at once.
    ///
    /// # Errors
    /// The host has no timer left.
    pub fn new(devices: Vec<Arc<dyn EventDevice>>) -> Result<Self> {
        Ok(Self { timer: RetryTimer::start()?, devices })
    }
}

impl MutEventSubscriber for Maintenance {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.timer.acknowledge();
        retry(&self.devices);
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.timer, EventSet::IN)) {
            tracing::error!("the devices' interrupts are not looked after: {error}");
        }
    }
}

fn retry(devices: &[Arc<dyn EventDevice>]) {
    for device in devices {
        device.retry();
        // Also where its descriptor is silent: the host may have refused to have it watched.
        device.deliver_relayed();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::RawFd;
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<&'static str>>);

    impl EventDevice for Recorder {
        fn timer_fd(&self) -> Option<RawFd> {
            None
        }

        fn on_timer(&self, _now: Instant) {
            self.0.lock().unwrap().push("wakes");
        }

        fn retry(&self) {
            self.0.lock().unwrap().push("again");
        }

        fn relay_fd(&self) -> Option<RawFd> {
            None
        }

        fn deliver_relayed(&self) {
            self.0.lock().unwrap().push("delivers");
        }
    }

    #[test]
    fn what_the_host_refuses_is_tried_again_and_then_delivered_where_nobody_else_is_told() {
        let device = Arc::new(Recorder::default());
        retry(&[Arc::clone(&device) as _]);
        assert_eq!(*device.0.lock().unwrap(), ["again", "delivers"]);
    }
}
