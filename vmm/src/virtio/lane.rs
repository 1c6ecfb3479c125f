//! The queues and events of a lane, as its handler sees them. The loop that drives them is in [`super::lane_loop`].
//!
//! A lane owns the rings of its queues, so no lock is taken for a request.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::handler::{Service, Token};
use super::live_queue::{LiveQueue, QueueState};
use super::queue::QueueIndex;
use super::transport::Transport;

/// Data of the lane's own events. Doorbells have the queue's index, and a handler's descriptors `TOKENS + token`.
pub(super) const CONTROL: u64 = u64::MAX;
pub(super) const MAINTENANCE: u64 = u64::MAX - 1;
pub(super) const TOKENS: u64 = 1 << 32;

/// The state of a queue in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The lane has no ring.
    Off,
    /// The queue is served.
    Running(Service),
    /// The handler was told to stop. Chains may be in flight.
    Stopping,
    /// No chain is in flight. The ring is kept: the queue was not reset.
    Paused,
}

/// A queue of a lane.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) index: QueueIndex,
    pub(super) phase: Phase,
    /// The ring, in each phase but `Off`.
    pub(super) live: Option<LiveQueue>,
    pub(super) registered: Option<Arc<QueueState>>,
    /// The vector that the handler knows, of a queue that the host serves.
    pub(super) vector: Option<u16>,
}

/// The queues and events of a lane, as its handler sees them.
pub struct Lane {
    pub(super) transport: Arc<Transport>,
    pub(super) epoll: Epoll,
    pub(super) slots: Vec<Slot>,
    pub(super) features: u64,
    /// Whether the handler has asked for a retry.
    pub(super) is_retry_due: bool,
}

impl Lane {
    /// A lane whose queues are not live, and whose events are not watched.
    pub(super) fn new(transport: Arc<Transport>, queues: Vec<QueueIndex>) -> io::Result<Self> {
        let slot = |index| Slot { index, phase: Phase::Off, live: None, registered: None, vector: None };
        let slots = queues.into_iter().map(slot).collect();
        Ok(Self { transport, epoll: Epoll::new()?, slots, features: 0, is_retry_due: false })
    }

    /// A live queue of this lane. `None` while it is not live.
    pub fn queue(&mut self, index: QueueIndex) -> Option<&mut LiveQueue> {
        self.slots.iter_mut().find(|slot| slot.index == index)?.live.as_mut()
    }

    /// The indices of the lane's queues.
    pub fn queues(&self) -> impl Iterator<Item = QueueIndex> {
        self.slots.iter().map(|slot| slot.index)
    }

    /// The features that the driver had accepted when the lane's last queue became live.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        self.transport.memory()
    }

    /// A queue's doorbell, which the driver rings. KVM signals it without an exit.
    #[must_use]
    pub fn doorbell(&self, index: QueueIndex) -> Option<&EventFd> {
        self.transport.doorbells().get(usize::from(index.0))
    }

    /// The eventfd that interrupts the driver for a queue, if the queue has a vector and the device's interrupts come
    /// from [eventfds](super::InterruptSource::Eventfds). A producer in the host may signal it.
    #[must_use]
    pub fn call(&self, index: QueueIndex) -> Option<&EventFd> {
        let slot = self.slots.iter().find(|slot| slot.index == index)?;
        self.transport.interrupts().eventfd(slot.registered.as_ref()?.vector()?)
    }

    /// Publishes the chains that were completed until now. Otherwise they are published when the handler returns. A
    /// handler with many chains calls this from time to time, so that the driver works at the same time.
    pub fn publish(&mut self, index: QueueIndex) {
        let transport = &self.transport;
        let slot = self.slots.iter_mut().find(|slot| slot.index == index);
        if let Some(Slot { live: Some(live), registered: Some(state), .. }) = slot
            && live.publish()
        {
            transport.notify_queue(state);
        }
    }

    /// Has [`Handler::retry`](super::handler::Handler::retry) called once, at the latest after
    /// [`RetryTimer::PERIOD`](crate::events::RetryTimer::PERIOD). A handler asks for it when the host has refused
    /// something, and no event tells when the host could serve it.
    pub fn retry_later(&mut self) {
        self.is_retry_due = true;
    }

    /// Watches a descriptor. The handler gets its events until [`Lane::unwatch`] or until the descriptor is closed.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn watch(&self, descriptor: &impl AsRawFd, token: Token, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, descriptor, data(token), events)
    }

    /// Watches a descriptor for other events.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn rewatch(&self, descriptor: &impl AsRawFd, token: Token, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, descriptor, data(token), events)
    }

    /// Stops watching a descriptor. Events that the lane has taken from the host are still handled.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn unwatch(&self, descriptor: &impl AsRawFd) -> io::Result<()> {
        self.control(ControlOperation::Delete, descriptor, 0, EventSet::empty())
    }

    fn control(
        &self,
        operation: ControlOperation,
        descriptor: &impl AsRawFd,
        data: u64,
        events: EventSet,
    ) -> io::Result<()> {
        self.epoll.ctl(operation, descriptor.as_raw_fd(), EpollEvent::new(events, data))
    }

    pub(super) fn watch_own(&self, descriptor: &impl AsRawFd, data: u64) -> io::Result<()> {
        self.control(ControlOperation::Add, descriptor, data, EventSet::IN)
    }

    pub(super) fn watch_doorbell(&self, index: QueueIndex) {
        if let Some(doorbell) = self.doorbell(index)
            && let Err(error) = self.watch_own(doorbell, index.0.into())
        {
            tracing::error!("cannot watch the doorbell of a virtio queue: {error}");
        }
    }

    pub(super) fn unwatch_doorbell(&self, index: QueueIndex) {
        if let Some(doorbell) = self.doorbell(index) {
            // It fails only for a descriptor that is not watched.
            let _ = self.unwatch(doorbell);
        }
    }

    /// Lets the handler take as many chains of each queue as the queue has entries.
    pub(super) fn refill(&mut self) {
        self.slots.iter_mut().filter_map(|slot| slot.live.as_mut()).for_each(LiveQueue::refill);
    }

    pub(super) fn slot(&mut self, at: usize) -> Option<&mut Slot> {
        self.slots.get_mut(at)
    }
}

fn data(token: Token) -> u64 {
    TOKENS.saturating_add(token.0.into())
}
