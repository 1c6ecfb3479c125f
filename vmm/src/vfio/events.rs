//! Delivery of relayed interrupts on the event loop. If the host refuses to watch a descriptor,
//! [`maintenance`](super::maintenance) delivers them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::device::Device;
use super::interrupts::Vectors;
use crate::error::{Context, Result};

/// The vectors of a capability, and the descriptor that is ready while a relayed interrupt is pending.
type Relay = (Arc<OwnedFd>, Arc<dyn Vectors>);

/// An event loop subscriber for all devices.
pub struct DeviceEvents {
    relays: Vec<Relay>,
}

impl DeviceEvents {
    /// Creates the subscriber. Add it to the event loop at once: relayed interrupts wait for it.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses a descriptor.
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
                tracing::warn!("cannot watch relayed interrupts, they are delivered late: {error}");
            }
        }
    }
}
