//! Host calls that may block, on a thread of their own: bind newly used vectors, retry refused calls, release expired
//! vectors.
//!
//! vCPUs do not wait for these calls, and neither does the event loop that delivers relayed interrupts
//! ([`events`](super::events)). If the host refuses to watch a relay descriptor there, this thread delivers those
//! interrupts late.

use std::cmp::Reverse;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::device::Device;
use super::interrupts::Vectors;
use super::intx::Intx;
use crate::error::{Context, Result};
use crate::events::RetryTimer;

/// The vectors of a capability, and the descriptor that is ready while some wait to be bound.
type DeferredBind = (Arc<OwnedFd>, Arc<dyn Vectors>);

/// The subscriber of a side loop, for all devices.
pub struct Maintenance {
    timer: RetryTimer,
    deferred: Vec<DeferredBind>,
    intx: Vec<Arc<Intx>>,
}

impl Maintenance {
    /// Creates the subscriber. Start its loop at once: newly used vectors wait for it.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses the timer or a descriptor.
    pub fn new(devices: &[Arc<Device>]) -> Result<Self> {
        let timer = RetryTimer::start()?;
        let vectors = devices.iter().flat_map(|device| device.interrupts().vectors());
        let deferred = vectors.map(|vectors| Ok((vectors.deferred_bind_fd()?, Arc::clone(vectors))));
        let deferred = deferred.collect::<io::Result<_>>().context("creating a descriptor for interrupts")?;
        let intx = devices.iter().filter_map(|device| device.interrupts().intx().cloned()).collect();
        Ok(Self { timer, deferred, intx })
    }
}

impl MutEventSubscriber for Maintenance {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.timer.as_raw_fd() {
            self.timer.acknowledge();
            retry(&mut self.deferred);
            self.intx.iter().for_each(|intx| intx.retry());
        }
        for (_, vectors) in
            self.deferred.iter().filter(|(deferred_fd, _)| deferred_fd.as_raw_fd() == events.fd())
        {
            vectors.bind_deferred();
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = watch(ops, self.timer.as_raw_fd()) {
            tracing::error!("cannot watch the retry timer, refused interrupts are not retried: {error}");
        }
        for (deferred_fd, _) in &self.deferred {
            if let Err(error) = watch(ops, deferred_fd.as_raw_fd()) {
                tracing::warn!("cannot watch newly used vectors, they are bound late: {error}");
            }
        }
    }
}

/// Retries in the order of relayed deliveries: the busiest vectors get free host vectors first.
fn retry(deferred: &mut [DeferredBind]) {
    deferred.sort_by_cached_key(|(_, vectors)| Reverse(vectors.max_relayed()));
    for (_, vectors) in deferred {
        vectors.retry();
        // Needed for descriptors that the host refused to watch.
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
    fn the_busiest_vectors_are_retried_first() {
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
