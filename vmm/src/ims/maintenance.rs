//! Host calls that may block, on a thread of their own: retries of refused calls, and releases of expired host
//! vectors of mediated slots.
//!
//! The event loop that delivers relayed interrupts ([`events`](super::events)) does not wait for these calls. If the
//! host refuses to watch a relay descriptor there, this thread delivers those interrupts late.

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::events::EventDevice;
use crate::error::Result;
use crate::events::RetryTimer;

/// The subscriber of a side loop, for all devices.
pub struct Maintenance {
    timer: RetryTimer,
    devices: Vec<Arc<dyn EventDevice>>,
}

impl Maintenance {
    /// Creates the subscriber. Start its loop at once: retries wait for it.
    ///
    /// # Errors
    /// The host refuses a timer.
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
            tracing::error!("cannot watch the retry timer, refused interrupts are not retried: {error}");
        }
    }
}

fn retry(devices: &[Arc<dyn EventDevice>]) {
    for device in devices {
        device.retry();
        // Needed for a descriptor that the host refused to watch.
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
    fn maintenance_retries_and_then_delivers_relayed_interrupts() {
        let device = Arc::new(Recorder::default());
        retry(&[Arc::clone(&device) as _]);
        assert_eq!(*device.0.lock().unwrap(), ["again", "delivers"]);
    }
}
