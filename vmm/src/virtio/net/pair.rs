//! A lane of the network device whose packets the VMM moves: a receive queue and a transmit queue with one descriptor of the
//! tap, or the control queue.
//!
//! The tap is watched edge-triggered, so a tap with packets does not wake the lane while there are no buffers for them. No
//! wake-up is lost: the lane reads until the tap is empty or the queue has no chain, and writes until the tap is full or
//! the queue is empty. The next packet, or the next ring of the doorbell, begins anew.

use std::fs::File;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::counters::PairCounters;
use super::features::Role;
use super::receive::Receiver;
use super::transmit::Transmitter;
use super::{Net, Progress};
use crate::error::{Context, Result};
use crate::virtio::handler::{Handler, Service, Token};
use crate::virtio::lane::Lane;
use crate::virtio::queue::QueueIndex;

const TAP: Token = Token(0);

/// The handler of a lane.
pub(super) struct Pair {
    net: Arc<Net>,
    /// The tap's descriptor, of a lane with packets.
    port: Option<Port>,
}

struct Port {
    receive_queue: QueueIndex,
    file: Arc<File>,
    counters: Arc<PairCounters>,
    receiver: Receiver,
    transmitter: Transmitter,
}

impl Pair {
    /// The lane of the control queue.
    pub(super) fn control(net: Arc<Net>) -> Self {
        Self { net, port: None }
    }

    /// The lane of a receive queue and the transmit queue behind it.
    pub(super) fn new(
        net: Arc<Net>,
        receive_queue: QueueIndex,
        file: Arc<File>,
        counters: Arc<PairCounters>,
    ) -> Self {
        let (receiver, transmitter) = (Receiver::new(), Transmitter::new());
        Self { net, port: Some(Port { receive_queue, file, counters, receiver, transmitter }) }
    }

    fn role(&self, lane: &Lane, queue: QueueIndex) -> Role {
        Role::of(queue, self.net.pairs(), lane.features())
    }
}

impl Port {
    fn receive(&mut self, lane: &mut Lane, index: QueueIndex) {
        while let Some(queue) = lane.queue(index) {
            if self.receiver.receive(queue, &self.file, &self.counters.received) == Progress::Blocked {
                return;
            }
            lane.publish(index);
        }
    }

    fn transmit(&mut self, lane: &mut Lane, index: QueueIndex) {
        while let Some(queue) = lane.queue(index) {
            if self.transmitter.transmit(queue, &self.file, &self.counters.sent) == Progress::Blocked {
                return;
            }
            lane.publish(index);
        }
    }
}

impl Handler for Pair {
    fn init(&mut self, lane: &mut Lane) -> Result<()> {
        let Some(port) = &self.port else { return Ok(()) };
        let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        lane.watch(&*port.file, TAP, events).context("watching a tap")
    }

    fn start(&mut self, lane: &mut Lane, index: QueueIndex) -> Result<Service> {
        let features = lane.features();
        self.net.start(features).context("setting up the tap for the driver's features")?;
        if let (Role::Receive, Some(port)) = (self.role(lane, index), &mut self.port)
            && let Some(queue) = lane.queue(index)
        {
            port.receiver.start(queue, features, self.net.mtu());
        }
        Ok(Service::Lane)
    }

    fn stop(&mut self, lane: &mut Lane, index: QueueIndex) {
        let role = self.role(lane, index);
        let (Some(port), Some(queue)) = (&mut self.port, lane.queue(index)) else { return };
        match role {
            Role::Receive => port.receiver.stop(queue, &port.counters.received),
            Role::Transmit => port.transmitter.stop(queue),
            Role::Control | Role::Unused => {}
        }
    }

    fn queue_ready(&mut self, lane: &mut Lane, index: QueueIndex) {
        match (self.role(lane, index), &mut self.port) {
            (Role::Receive, Some(port)) => port.receive(lane, index),
            (Role::Transmit, Some(port)) => port.transmit(lane, index),
            (Role::Control, _) => self.net.serve_control(lane, index),
            (Role::Unused | Role::Receive | Role::Transmit, _) => {}
        }
    }

    fn descriptor_ready(&mut self, lane: &mut Lane, _token: Token, ready: EventSet) {
        let Some(port) = &self.port else { return };
        let receive_queue = port.receive_queue;
        let transmit_queue = QueueIndex(receive_queue.0.saturating_add(1));
        // Without several pairs, the second pair's first queue may be the control queue.
        if ready != EventSet::OUT && self.role(lane, receive_queue) == Role::Receive {
            self.queue_ready(lane, receive_queue);
        }
        if ready.contains(EventSet::OUT) {
            self.queue_ready(lane, transmit_queue);
        }
    }
}
