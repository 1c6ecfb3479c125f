//! What devices need of the event loop: the delivery of what the kernel has no room for, as it comes. Where the host refuses
//! to have that watched, [`maintenance`](super::maintenance) delivers it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::device::Device;
use super::interrupts::Vectors;
use crate::error::{Context, Result};

/// Vectors, and what is ready while there is something of theirs to deliver.
type Relay = (Arc<OwnedFd>, Arc<dyn Vectors>);

/// A subscriber of the event loop, for all devices.
pub struct DeviceEvents {
    relays: Vec<Relay>,
}

impl DeviceEvents {
    /// From now on interrupts are delivered from userspace where need be: add this to the event loop at once.
    ///
    /// # Errors
    /// The host's, when it has no descriptor.
    pub fn new(devices: &[Arc<Device>]) -> Result<Self> {
        let vectors = devices.iter().flat_map(|device| device.interrupts().vectors());
        let relays = vectors.map(|vectors| Ok((vectors.relay_fd()?, Arc::clone(vectors))));
        let relays =
            relays.collect::<std::io::Result<_>>().context("creating a descriptor for interrupts")?;
        Ok(Self { relays })
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        for (_, vectors) in self.relays.iter().filter(|(relay, _)| relay.as_raw_fd() == events.fd()) {
            vectors.deliver_relayed();
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        for (relay, _) in &self.relays {
            if let Err(error) = ops.add(Events::new(relay, EventSet::IN)) {
                tracing::warn!("a device's interrupts come late where userspace delivers them: {error}");
            }
        }
    }
}
