//! What devices need of the event loop: a clock that tries again what the host refused for their interrupts and gives
//! back what has lingered, and the delivery of what the kernel has no room for.

use std::cmp::Reverse;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::timerfd::TimerFd;

use super::device::Device;
use super::interrupts::Vectors;
use crate::error::{Doing, Result};

/// How long a vector waits at most after the host could serve it.
const PERIOD: Duration = Duration::from_millis(100);

/// Vectors, and what is ready while there is something of theirs to deliver.
type Relay = (Arc<OwnedFd>, Arc<dyn Vectors>);

/// A subscriber of the event loop, for all devices.
pub struct DeviceEvents {
    timer: TimerFd,
    relays: Vec<Relay>,
}

impl DeviceEvents {
    /// From now on interrupts are delivered from userspace where need be: add this to the event loop at once.
    ///
    /// # Errors
    /// The host's, when it has no timer or no descriptor.
    pub fn new(devices: &[Arc<Device>]) -> Result<Self> {
        let mut timer = TimerFd::new().doing("creating a timer")?;
        timer.reset(PERIOD, Some(PERIOD)).doing("starting a timer")?;
        let vectors = devices.iter().flat_map(|device| device.interrupts().vectors());
        let relays = vectors.map(|vectors| Ok((vectors.relay()?, Arc::clone(vectors))));
        let relays = relays.collect::<std::io::Result<_>>().doing("creating a descriptor for interrupts")?;
        Ok(Self { timer, relays })
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.timer.as_raw_fd() {
            if let Err(error) = self.timer.wait() {
                tracing::warn!("the clock of the devices' interrupts: {error}");
            }
            retry(&mut self.relays);
        }
        for (_, vectors) in self.relays.iter().filter(|(relay, _)| relay.as_raw_fd() == events.fd()) {
            vectors.deliver();
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        watch(ops, self.timer.as_raw_fd());
        for (relay, _) in &self.relays {
            watch(ops, relay.as_raw_fd());
        }
    }
}

/// Where there is room by now, it is for who would use it most.
fn retry(relays: &mut [Relay]) {
    relays.sort_by_cached_key(|(_, vectors)| Reverse(vectors.busiest()));
    relays.iter().for_each(|(_, vectors)| vectors.retry());
}

fn watch(ops: &mut EventOps, descriptor: RawFd) {
    if let Err(error) = ops.add(Events::new(&descriptor, EventSet::IN)) {
        tracing::error!("a device's interrupts are not looked after: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::interrupts::tests::interrupts;
    use super::*;

    #[test]
    fn the_busiest_vectors_are_the_first_to_be_tried_again() {
        let (interrupts, log) = interrupts();
        let no_relay = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        let relays = interrupts.vectors().map(|vectors| (Arc::clone(&no_relay), Arc::clone(vectors)));
        retry(&mut relays.collect::<Vec<_>>());
        assert_eq!(*log.lock().unwrap(), ["msix again", "msi again"]);
    }
}
