//! Delivery of relayed interrupts, and of INTx that KVM does not read, on the event loop. If the host refuses to watch a descriptor,
//! [`maintenance`](super::maintenance) delivers them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::device::Device;
use super::interrupts::Vectors;
use super::intx::Intx;
use crate::error::{Context, Result};

/// The vectors of a capability, and the descriptor that is ready while a relayed interrupt is pending.
type Relay = (Arc<OwnedFd>, Arc<dyn Vectors>);

/// An event loop subscriber for all devices.
pub struct DeviceEvents {
    relays: Vec<Relay>,
    /// INTx that the VMM's IOAPIC delivers.
    intx: Vec<Arc<Intx>>,
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
        let intx = devices.iter().filter_map(|device| device.interrupts().intx());
        let intx = intx.filter(|intx| intx.watched().is_some()).cloned().collect();
        Ok(Self { relays, intx })
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        for (_, vectors) in self.relays.iter().filter(|(relay, _)| relay.as_raw_fd() == events.fd()) {
            vectors.deliver_relayed();
        }
        let is_ready = |intx: &&Arc<Intx>| intx.watched().is_some_and(|fd| fd.as_raw_fd() == events.fd());
        if let Some(intx) = self.intx.iter().find(is_ready) {
            intx.deliver();
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        for (relay, _) in &self.relays {
            if let Err(error) = ops.add(Events::new(relay, EventSet::IN)) {
                tracing::warn!("cannot watch relayed interrupts, they are delivered late: {error}");
            }
        }
        for trigger in self.intx.iter().filter_map(|intx| intx.watched()) {
            if let Err(error) = ops.add(Events::new(trigger, EventSet::IN)) {
                tracing::warn!("cannot watch an INTx, it is delivered late: {error}");
            }
        }
    }
}
