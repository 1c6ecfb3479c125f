//! The interface between a lane's thread and a device model.
//!
//! All methods but [`Handler::init`] run on the lane's thread. They may take a while, but not wait: a handler that has to
//! wait keeps the chain, returns, and completes it when one of its descriptors is ready. A reset of the lane's queues waits until the handler
//! has given back each chain.

use vmm_sys_util::epoll::EventSet;

use super::lane::Lane;
use super::queue::QueueIndex;
use crate::error::Result;

/// What serves a live queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The handler. The lane watches the queue's doorbell.
    Lane,
    /// The host, for example vhost-net. The lane leaves the doorbell alone.
    Host,
}

/// Names a descriptor that a handler watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u32);

/// Serves the queues of one lane.
pub trait Handler: Send {
    /// The lane is made, on the main thread before the guest starts. No queue is live. The handler may watch descriptors.
    ///
    /// # Errors
    /// The VMM does not start.
    fn init(&mut self, _lane: &mut Lane) -> Result<()> {
        Ok(())
    }

    /// A queue has become live: it is enabled, DRIVER_OK is set and the bus lets the device access memory. A queue that
    /// was stopped without a reset goes on at [`LiveQueue::position`](super::LiveQueue::position).
    ///
    /// # Errors
    /// The device stops until its reset, and the error is logged.
    fn start(&mut self, _lane: &mut Lane, _queue: QueueIndex) -> Result<Service> {
        Ok(Service::Lane)
    }

    /// A live queue stops: by a reset, by an error of the device, or by the bus. No chain can be taken. The handler
    /// completes the chains in flight, now or later. A handler whose queue the host serves stops the host before it
    /// returns, and sets the queue's position.
    fn stop(&mut self, _lane: &mut Lane, _queue: QueueIndex) {}

    /// A queue may have chains.
    fn queue_ready(&mut self, lane: &mut Lane, queue: QueueIndex);

    /// A watched descriptor is ready.
    fn descriptor_ready(&mut self, _lane: &mut Lane, _token: Token, _ready: EventSet) {}

    /// The time for a retry has come, which the handler has asked for with [`Lane::retry_later`].
    fn retry(&mut self, _lane: &mut Lane) {}

    /// The driver has changed the vector of a live queue that the host serves: [`Lane::call`] has changed.
    fn vector_changed(&mut self, _lane: &mut Lane, _queue: QueueIndex) {}
}
