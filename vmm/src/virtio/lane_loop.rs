//! The event loop of a lane: waits for events, calls the handler, and starts and stops the queues.
//!
//! Only `LaneLoop::sync_queue` starts and stops queues: it compares each queue with the registers, and takes the steps
//! between. Invariant: a ring goes back to the registers when no chain of it is in flight, and the driver sees a reset as
//! complete after that.
//!
//! ```text
//!          take ring, Handler::start                 registers: not live
//!   Off ──────────────────────────────► Running ────────────────────────────► Stopping
//!    ▲                                     ▲            Handler::stop             │ no chain in flight
//!    └───────────── Paused ◄───────────────┼──────────────────────────────────────┘
//!     another generation │ live again      │
//!                        └─────────────────┘
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vm_msi::maintenance::Maintenance;
use vmm_sys_util::epoll::EpollEvent;
use vmm_sys_util::eventfd::EventFd;

use super::device::LaneModel;
use super::handler::{Handler, Service, Token};
use super::lane::{CONTROL, Lane, MAINTENANCE, Phase, Slot, TOKENS};
use super::live_queue::LiveQueue;
use super::queue::{QueueError, QueueIndex};
use super::transport::{Registered, Transport};
use crate::error::{Context, Error, Result};
use crate::events::RetryTimer;

/// Events taken from the host at once.
const EVENTS: usize = 32;

/// Whether a lane's loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has served events.
    Served,
    /// There was no event in time.
    Idle,
    /// The device is released, and no request is in flight.
    Ended,
}

/// Whether a queue's next step can be taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Taken,
    None,
}

/// The event loop of a lane.
pub struct LaneLoop {
    lane: Lane,
    number: usize,
    handler: Box<dyn Handler>,
    maintenance: Option<Maintenance>,
}

impl LaneLoop {
    /// Makes a lane of a device, and initialises its handler.
    ///
    /// # Errors
    /// [`Error::Host`] if the host refuses a descriptor, or the handler's error.
    pub fn new(transport: Arc<Transport>, number: usize, model: LaneModel) -> Result<Self> {
        let LaneModel { queues, mut handler } = model;
        let context = "watching the events of a virtio device";
        let mut lane = Lane::new(transport, queues).context(context)?;
        let absent = || Error::host(context, "the device has no such lane or queue");
        lane.watch_own(lane.transport.lane(number).ok_or_else(absent)?, CONTROL).context(context)?;
        for index in lane.queues() {
            lane.watch_own(lane.doorbell(index).ok_or_else(absent)?, index.0.into()).context(context)?;
        }
        // The first lane serves the interrupts of all.
        let maintenance = if number == 0 { lane.transport.interrupts().maintenance() } else { Ok(None) };
        let maintenance = maintenance.context(context)?;
        if let Some(maintenance) = &maintenance {
            lane.watch_own(maintenance, MAINTENANCE).context(context)?;
        }
        handler.init(&mut lane)?;
        Ok(Self { lane, number, handler, maintenance })
    }

    /// Waits for events, at most for `timeout`, and serves them.
    ///
    /// # Errors
    /// The error of epoll_wait(2).
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Turn> {
        let has_failed = self.lane.transport.interrupts().has_failed();
        let is_retry_due = has_failed || self.lane.is_retry_due;
        let timeout = timeout.or(is_retry_due.then_some(RetryTimer::PERIOD));
        let timeout = timeout.map_or(-1, |timeout| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
        let mut events = [EpollEvent::default(); EVENTS];
        let count = match self.lane.epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        if has_failed {
            self.lane.transport.interrupts().retry();
        }
        if std::mem::take(&mut self.lane.is_retry_due) {
            self.lane.refill();
            self.handler.retry(&mut self.lane);
            self.finish();
        }
        let mut is_sync_due = false;
        for event in events.iter().take(count) {
            let data = event.data();
            self.lane.refill();
            match data {
                CONTROL => {
                    // Clear it before the registers are read: a later write wakes the lane again.
                    let _ = self.lane.transport.lane(self.number).map(EventFd::read);
                    is_sync_due = true;
                }
                MAINTENANCE => {
                    if let Some(maintenance) = &self.maintenance {
                        maintenance.run();
                    }
                }
                TOKENS.. => {
                    let token = u32::try_from(data.saturating_sub(TOKENS)).unwrap_or(u32::MAX);
                    self.handler.descriptor_ready(&mut self.lane, Token(token), event.event_set());
                }
                queue => self.doorbell_rung(QueueIndex(u16::try_from(queue).unwrap_or(u16::MAX))),
            }
            self.finish();
        }
        self.sync(is_sync_due);
        let is_idle = |slot: &Slot| matches!(slot.phase, Phase::Off | Phase::Paused);
        let has_ended = self.lane.transport.is_ending() && self.lane.slots.iter().all(is_idle);
        Ok(match count {
            _ if has_ended => Turn::Ended,
            0 => Turn::Idle,
            _ => Turn::Served,
        })
    }

    fn doorbell_rung(&mut self, index: QueueIndex) {
        let slot = self.lane.slots.iter().find(|slot| slot.index == index);
        let Some(phase) = slot.map(|slot| slot.phase) else { return };
        if phase == Phase::Running(Service::Host) {
            return;
        }
        // Clear the doorbell before the queue is served: a later ring wakes the lane again.
        let _ = self.lane.doorbell(index).map(EventFd::read);
        if phase == Phase::Running(Service::Lane) {
            self.handler.queue_ready(&mut self.lane, index);
        }
    }

    /// Publishes used chains, and passes errors of the rings on.
    fn finish(&mut self) {
        let transport = &self.lane.transport;
        for slot in &mut self.lane.slots {
            let (Some(live), Some(state)) = (&mut slot.live, &slot.registered) else { continue };
            if live.publish() {
                transport.notify_queue(state);
            }
            if let Some(error) = live.take_error() {
                transport.fail(slot.index, live.generation(), &error);
            }
            if slot.phase == Phase::Running(Service::Lane) && live.is_spent() {
                transport.ring(slot.index);
            }
        }
    }

    fn sync(&mut self, is_due: bool) {
        for at in 0..self.lane.slots.len() {
            let is_settled =
                |slot: &Slot| matches!(slot.phase, Phase::Off | Phase::Running(_) | Phase::Paused);
            if is_due || !self.lane.slots.get(at).is_some_and(is_settled) {
                while self.sync_queue(at) == Step::Taken {
                    self.finish();
                }
            }
        }
    }

    /// Takes one step of a queue towards what the registers say.
    fn sync_queue(&mut self, at: usize) -> Step {
        let is_ending = self.lane.transport.is_ending();
        let Some(slot) = self.lane.slots.get(at) else { return Step::None };
        let (index, phase) = (slot.index, slot.phase);
        let own = slot.live.as_ref().map(LiveQueue::generation);
        let wanted = self.lane.transport.look(|registers| registers.wanted(index));
        let is_same = own == wanted.generation;
        let is_live = wanted.is_live && !is_ending;
        match phase {
            Phase::Off if is_live => self.take(at),
            Phase::Paused if is_same && is_live => self.start(at),
            Phase::Paused if !is_same => {
                if let Some(slot) = self.lane.slot(at) {
                    (slot.live, slot.registered, slot.phase) = (None, None, Phase::Off);
                }
                self.lane.transport.release(index);
                Step::Taken
            }
            Phase::Running(service) if !(is_same && is_live) => self.stop(at, service),
            Phase::Running(Service::Host) => self.update_vector(at),
            Phase::Stopping => {
                let is_drained = |slot: &Slot| slot.live.as_ref().is_none_or(|live| live.in_flight() == 0);
                match self.lane.slot(at) {
                    Some(slot) if is_drained(slot) => {
                        slot.phase = Phase::Paused;
                        Step::Taken
                    }
                    _ => Step::None,
                }
            }
            Phase::Off | Phase::Paused | Phase::Running(Service::Lane) => Step::None,
        }
    }

    fn take(&mut self, at: usize) -> Step {
        let Some(index) = self.lane.slots.get(at).map(|slot| slot.index) else { return Step::None };
        let Some((ring, registered)) = self.lane.transport.take(index) else { return Step::None };
        let Registered { features, suppression, state } = registered;
        let (memory, bus_master) = (self.lane.memory().clone(), Arc::clone(self.lane.transport.bus_master()));
        let live = LiveQueue::new(ring, suppression, memory, bus_master, Arc::clone(&state));
        self.lane.features = features;
        if let Some(slot) = self.lane.slot(at) {
            (slot.live, slot.registered) = (Some(live), Some(state));
        }
        self.start(at)
    }

    fn start(&mut self, at: usize) -> Step {
        let Some(slot) = self.lane.slot(at) else { return Step::None };
        let index = slot.index;
        slot.vector = slot.registered.as_ref().and_then(|state| state.vector());
        slot.live.iter_mut().for_each(LiveQueue::open);
        let phase = match self.handler.start(&mut self.lane, index) {
            Ok(service) => Phase::Running(service),
            Err(error) => {
                tracing::warn!("virtio {}: {error}", self.lane.transport.device().identity().name);
                if let Some(live) = self.lane.queue(index) {
                    live.fail(QueueError::Host(error.to_string()));
                }
                Phase::Stopping
            }
        };
        if let Some(slot) = self.lane.slot(at) {
            slot.phase = phase;
        }
        match phase {
            // The driver may have made chains available before the queue was live.
            Phase::Running(Service::Lane) => self.handler.queue_ready(&mut self.lane, index),
            Phase::Running(Service::Host) => {
                self.lane.unwatch_doorbell(index);
                self.lane.transport.ring(index);
            }
            _ => {}
        }
        Step::Taken
    }

    fn stop(&mut self, at: usize, service: Service) -> Step {
        let Some(slot) = self.lane.slot(at) else { return Step::None };
        slot.phase = Phase::Stopping;
        let index = slot.index;
        slot.live.iter_mut().for_each(LiveQueue::close);
        self.handler.stop(&mut self.lane, index);
        if service == Service::Host {
            self.lane.watch_doorbell(index);
        }
        Step::Taken
    }

    /// Tells the handler of a vector that the driver has changed.
    fn update_vector(&mut self, at: usize) -> Step {
        let Some(slot) = self.lane.slot(at) else { return Step::None };
        let vector = slot.registered.as_ref().and_then(|state| state.vector());
        if std::mem::replace(&mut slot.vector, vector) != vector {
            let index = slot.index;
            self.handler.vector_changed(&mut self.lane, index);
        }
        Step::None
    }
}
