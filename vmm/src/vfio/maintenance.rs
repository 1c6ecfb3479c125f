//! What takes as long as the host does, on a thread of its own: host vectors for what the guest has begun to use, another
//! try at what the host refused, and the end of what has lingered.
//!
//! Not on the guest's vCPUs, as they need not wait for it, and not where interrupts are delivered from userspace at once
//! ([`events`](super::events)): who delivers waits for no commit and for no detach of its own making. Where the host has
//! refused to have that one told, interrupts are delivered from here, late.

use std::cmp::Reverse;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::device::Device;
use super::interrupts::Vectors;
use crate::error::{Context, Result};
use crate::events::RetryTimer;

/// Vectors, and what is ready while some of theirs wait for the host.
type DeferredBind = (Arc<OwnedFd>, Arc<dyn Vectors>);

/// A subscriber of an event loop of its own, for all devices.
pub struct Maintenance {
    timer: RetryTimer,
    deferred: Vec<DeferredBind>,
}

impl Maintenance {
    /// From now on the vectors that guests begin to use wait for this: have it run at once.
    ///
    /// # Errors
    /// The host's, when it has no timer or no descriptor.
    pub fn new(devices: &[Arc<Device>]) -> Result<Self> {
        let timer = RetryTimer::start()?;
        let vectors = devices.iter().flat_map(|device| device.interrupts().vectors());
        let deferred = vectors.map(|vectors| Ok((vectors.deferred_bind_fd()?, Arc::clone(vectors))));
        let deferred = deferred.collect::<io::Result<_>>().context("creating a descriptor for interrupts")?;
        Ok(Self { timer, deferred })
    }
}

impl MutEventSubscriber for Maintenance {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.timer.as_raw_fd() {
            self.timer.acknowledge();
            retry(&mut self.deferred);
        }
        for (_, vectors) in
            self.deferred.iter().filter(|(deferred_fd, _)| deferred_fd.as_raw_fd() == events.fd())
        {
            vectors.bind_deferred();
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = watch(ops, self.timer.as_raw_fd()) {
            tracing::error!("what the host refuses to devices' interrupts is not tried again: {error}");
        }
        for (deferred_fd, _) in &self.deferred {
            if let Err(error) = watch(ops, deferred_fd.as_raw_fd()) {
                tracing::warn!("interrupts that a guest begins to use come late: {error}");
            }
        }
    }
}

/// Where there is room by now, it is for who would use it most.
fn retry(deferred: &mut [DeferredBind]) {
    deferred.sort_by_cached_key(|(_, vectors)| Reverse(vectors.max_relayed()));
    for (_, vectors) in deferred {
        vectors.retry();
        // Also where their descriptors are silent: the host may have refused to have them watched.
        vectors.bind_deferred();
        vectors.deliver_relayed();
    }
}

fn watch(ops: &mut EventOps, descriptor: RawFd) -> event_manager::Result<()> {
    ops.add(Events::new(&descriptor, EventSet::IN))
}

#[cfg(test)]
mod tests {
    use super::super::interrupts::tests::interrupts;
    use super::*;

    #[test]
    fn the_busiest_vectors_are_the_first_to_be_tried_again_and_each_grows_and_delivers() {
        let (interrupts, log) = interrupts();
        let deferred =
            interrupts.vectors().map(|vectors| (vectors.deferred_bind_fd().unwrap(), Arc::clone(vectors)));
        retry(&mut deferred.collect::<Vec<_>>());
        assert_eq!(
            *log.lock().unwrap(),
            ["msix again", "msix grows", "msix delivers", "msi again", "msi grows", "msi delivers"]
        );
    }
}
