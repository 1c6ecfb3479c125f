//! The thread that serves a device's queues. Neither a vCPU nor the event loop waits for it.
//!
//! It sleeps until a doorbell is rung. A timer retries refused deliveries. Dropping the [`Worker`] joins the thread.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::QueueIndex;
use super::transport::Transport;
use crate::error::{Context, Result};
use crate::events::RetryTimer;

/// The event's data: a queue index, or one of these.
const STOP: u32 = u32::MAX;
const RETRY: u32 = u32::MAX - 1;

/// A device's thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct Worker {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread for a device.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host) if the host refuses a descriptor or the thread.
    pub fn start(transport: Arc<Transport>) -> Result<Self> {
        let name = format!("virtio {}", transport.device().identity().name);
        let context = format!("starting the thread of {name}");
        let stop = EventFd::new(EFD_NONBLOCK).context(&context)?;
        let retry_timer = RetryTimer::start()?;
        let stopping = stop.try_clone().context(&context)?;
        let queues =
            Arc::new(Mutex::new(Queues { transport, stop: stopping, retry_timer, is_stopped: false }));
        let mut manager = EventManager::new().context(&context)?;
        manager.add_subscriber(Arc::clone(&queues));
        let is_stopped = move || queues.lock().unwrap_or_else(PoisonError::into_inner).is_stopped;
        let run = move || {
            while !is_stopped() {
                if let Err(error) = manager.run() {
                    return tracing::error!("the thread of a virtio device ends: {error}");
                }
            }
        };
        let thread = Builder::new().name(name).spawn(run).context(context)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The write fails only if the counter is full, which is readable, too.
        let _ = self.stop.write(1);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a virtio device's thread panicked");
        }
    }
}

struct Queues {
    transport: Arc<Transport>,
    stop: EventFd,
    retry_timer: RetryTimer,
    is_stopped: bool,
}

impl MutEventSubscriber for Queues {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        match events.data() {
            STOP => self.is_stopped = true,
            RETRY => {
                self.retry_timer.acknowledge();
                self.transport.msix().retry();
            }
            queue => {
                let queue = QueueIndex(u16::try_from(queue).unwrap_or(u16::MAX));
                if let Some(doorbell) = self.transport.doorbells().get(usize::from(queue.0)) {
                    // Clear the doorbell before the queue is served: a later ring wakes the thread again.
                    let _ = doorbell.read();
                    self.transport.serve(queue);
                }
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let queues = self.transport.doorbells().iter().zip(0u32..);
        let sources = queues.map(|(doorbell, queue)| (doorbell.as_raw_fd(), queue));
        for (source, data) in
            sources.chain([(self.stop.as_raw_fd(), STOP), (self.retry_timer.as_raw_fd(), RETRY)])
        {
            if let Err(error) = ops.add(Events::with_data(&source, data, EventSet::IN)) {
                tracing::error!("cannot watch an event of a virtio device: {error}");
            }
        }
    }
}
