//! Requests that take their time: completion in any order, resets while they are in flight, and queues that the host
//! serves (virtio 1.2 §2.4, §2.6.1, §4.1.4.3.1).

use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::chain::Chain;
use super::super::handler::{Service, Token};
use super::super::interrupts::InterruptSource;
use super::super::registers::{COMMON_FEATURES, NEEDS_RESET};
use super::*;
use crate::error::{Error, Result};

const DONE: Token = Token(7);

/// What a handler of [`Slow`] was told, and is told to do.
#[derive(Default)]
struct Orders {
    log: Mutex<Vec<String>>,
    /// Chains to complete next, by head.
    complete: Mutex<Vec<u16>>,
    put_back: Mutex<bool>,
    refuses_to_start: Mutex<bool>,
    call: Mutex<Option<EventFd>>,
}

/// A device that keeps its requests until it is told to complete them.
struct Slow {
    orders: Arc<Orders>,
    done: EventFd,
    service: Service,
    held: Vec<Chain>,
}

struct SlowDevice {
    orders: Arc<Orders>,
    config: Arc<DeviceConfig>,
    source: InterruptSource,
}

impl Device for SlowDevice {
    fn identity(&self) -> Identity {
        Identity { id: 3, name: "slow", class: 0x07_8000, label: Some("mine".into()) }
    }

    fn queues(&self) -> &[QueueSize] {
        const QUEUES: [QueueSize; 1] = [QueueSize::two_to_the(6)];
        &QUEUES
    }

    fn config(&self) -> Option<&Arc<DeviceConfig>> {
        Some(&self.config)
    }

    fn config_written(&self, offset: u64, len: usize) {
        self.orders.log.lock().unwrap().push(format!("written {offset} {len}"));
    }

    fn reset(&self) {
        self.orders.log.lock().unwrap().push("reset".into());
    }

    fn interrupt_source(&self) -> InterruptSource {
        self.source
    }

    fn report(&self) -> Map<String, Value> {
        Map::new()
    }
}

impl Handler for Slow {
    fn init(&mut self, lane: &mut Lane) -> Result<()> {
        lane.watch(&self.done, DONE, EventSet::IN).map_err(|error| Error::host("watching", error))
    }

    fn start(&mut self, lane: &mut Lane, queue: QueueIndex) -> Result<Service> {
        let position = lane.queue(queue).unwrap().position();
        self.orders.log.lock().unwrap().push(format!("start {} at {position}", queue.0));
        *self.orders.call.lock().unwrap() = lane.call(queue).map(|call| call.try_clone().unwrap());
        if *self.orders.refuses_to_start.lock().unwrap() {
            return Err(Error::host("starting", "as it was told"));
        }
        Ok(self.service)
    }

    fn stop(&mut self, lane: &mut Lane, queue: QueueIndex) {
        assert!(lane.queue(queue).unwrap().pop().is_none());
        self.orders.log.lock().unwrap().push(format!("stop {}", queue.0));
    }

    fn queue_ready(&mut self, lane: &mut Lane, queue: QueueIndex) {
        let queue = lane.queue(queue).unwrap();
        while let Some(chain) = queue.pop() {
            if std::mem::take(&mut *self.orders.put_back.lock().unwrap()) {
                return queue.put_back(chain);
            }
            self.held.push(chain);
        }
    }

    fn descriptor_ready(&mut self, lane: &mut Lane, token: Token, _ready: EventSet) {
        assert_eq!(token, DONE);
        self.done.read().unwrap();
        let queue = lane.queue(QueueIndex(0)).unwrap();
        for head in std::mem::take(&mut *self.orders.complete.lock().unwrap()) {
            let at = self.held.iter().position(|chain| chain.head() == head).unwrap();
            queue.complete(self.held.remove(at), 100 + u32::from(head));
        }
    }

    fn vector_changed(&mut self, lane: &mut Lane, queue: QueueIndex) {
        self.orders.log.lock().unwrap().push("vector".into());
        *self.orders.call.lock().unwrap() = lane.call(queue).map(|call| call.try_clone().unwrap());
    }
}

/// A driven machine with a [`Slow`] device, what it is told, and the eventfd that says so.
struct SlowMachine {
    machine: Machine,
    orders: Arc<Orders>,
    config: Arc<DeviceConfig>,
    done: EventFd,
}

impl SlowMachine {
    fn new(service: Service, source: InterruptSource) -> Self {
        let orders = Arc::new(Orders::default());
        let config = Arc::new(DeviceConfig::new(vec![1, 2, 3, 4], 2..3));
        let done = EventFd::new(EFD_NONBLOCK).unwrap();
        let handler =
            Slow { orders: Arc::clone(&orders), done: done.try_clone().unwrap(), service, held: Vec::new() };
        let device = SlowDevice { orders: Arc::clone(&orders), config: Arc::clone(&config), source };
        let lane = LaneModel { queues: vec![QueueIndex(0)], handler: Box::new(handler) };
        let machine = Machine::of(Model { device: Arc::new(device), lanes: vec![lane] });
        machine.enable_msix();
        machine.drive(COMMON_FEATURES);
        let slow = Self { machine, orders, config, done };
        slow.log();
        slow
    }

    fn driven() -> Self {
        Self::new(Service::Lane, InterruptSource::Software)
    }

    /// Offers this many one-buffer chains, with heads from 0 on.
    fn offer(&mut self, count: u16) {
        for head in 0..count {
            self.machine.describe_at(DESCRIPTORS, head.into(), BUFFERS, 64, WRITE as u16, 0);
            self.machine.offer(head);
        }
        self.machine.serve();
    }

    fn complete(&self, heads: &[u16]) {
        self.orders.complete.lock().unwrap().extend(heads);
        self.done.write(1).unwrap();
        self.machine.settle();
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.orders.log.lock().unwrap())
    }

    /// Heads and lengths in the used ring.
    fn used(&self) -> Vec<(u32, u32)> {
        let word = |at| self.machine.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        let count: u16 = self.machine.memory.read_obj(GuestAddress(USED + 2)).unwrap();
        (0..u64::from(count)).map(|n| (word(USED + 4 + 8 * n), word(USED + 8 + 8 * n))).collect()
    }

    /// Empties the driver's rings.
    fn forget(&mut self) {
        self.machine.available = 0;
        self.machine.memory.write_slice(&[0; 0x4000], GuestAddress(0)).unwrap();
    }
}

#[test]
fn chains_are_completed_in_any_order_with_one_interrupt_a_batch() {
    let mut slow = SlowMachine::driven();
    slow.machine.memory.write_obj(0u16, GuestAddress(AVAILABLE + 4 + 2 * u64::from(ENTRIES))).unwrap();
    slow.offer(4);
    assert_eq!(slow.used(), []);
    slow.complete(&[2, 0, 3]);
    assert_eq!(slow.used(), [(2, 102), (0, 100), (3, 103)]);
    assert_eq!(slow.machine.router.take_delivered(), [message(1)]);
    slow.complete(&[1]);
    assert_eq!(slow.used().last(), Some(&(1, 101)));
    assert_eq!(slow.machine.router.take_delivered(), [], "used_event is behind");
    let report = slow.machine.transport.report();
    let queue = &report["queues"][0];
    let counts = ["requests", "notified", "suppressed", "invalid"].map(|name| queue[name].as_u64().unwrap());
    assert_eq!((counts, queue["vector"].as_u64(), &report["id"]), ([4, 1, 1, 0], Some(1), &"mine".into()));
}

#[test]
fn the_drivers_flag_suppresses_interrupts_without_event_indices() {
    let mut slow = SlowMachine::driven();
    slow.forget();
    slow.machine.drive(super::super::registers::VERSION_1);
    slow.machine.memory.write_obj(1u16, GuestAddress(AVAILABLE)).unwrap();
    slow.offer(2);
    slow.complete(&[0]);
    assert_eq!((slow.used().len(), slow.machine.router.take_delivered().len()), (1, 0));
    slow.machine.memory.write_obj(0u16, GuestAddress(AVAILABLE)).unwrap();
    slow.complete(&[1]);
    assert_eq!(slow.machine.router.take_delivered(), [message(1)]);
}

#[test]
fn a_reset_is_complete_when_no_request_is_in_flight_and_publishes_none_of_them() {
    let mut slow = SlowMachine::driven();
    slow.offer(3);
    let status = slow.machine.status();
    slow.machine.write(at::DEVICE_STATUS, &[0]);
    slow.machine.settle();
    assert_eq!(slow.machine.status(), status);
    slow.complete(&[1]);
    assert_eq!(slow.machine.status(), status, "two are left");
    slow.complete(&[0, 2]);
    assert_eq!(slow.machine.status(), 0);
    assert_eq!((slow.used(), slow.machine.router.take_delivered()), (vec![], vec![]));
    assert_eq!(slow.log(), ["reset", "stop 0"]);

    slow.forget();
    slow.machine.drive(COMMON_FEATURES);
    slow.offer(1);
    slow.complete(&[0]);
    assert_eq!(slow.used(), [(0, 100)], "it works again");
}

#[test]
fn a_driver_that_does_not_wait_for_a_reset_gets_its_queue_served_after_the_old_requests() {
    let mut slow = SlowMachine::driven();
    slow.offer(1);
    let machine = &slow.machine;
    machine.write(at::DEVICE_STATUS, &[0]);
    machine.write(at::DEVICE_STATUS, &[3]);
    assert_eq!(machine.status(), 3);
    machine.take(COMMON_FEATURES);
    machine.write(at::DEVICE_STATUS, &[3 | FEATURES_OK]);
    slow.forget();
    slow.machine.set_up_queue();
    slow.machine.write16(at::QUEUE_ENABLE, 1);
    slow.machine.write(at::DEVICE_STATUS, &[3 | FEATURES_OK | DRIVER_OK]);
    slow.offer(2);
    assert_eq!(slow.used(), []);
    slow.complete(&[0]);
    assert_eq!(slow.used(), [], "a request from before the reset");
    slow.complete(&[1, 0]);
    assert_eq!(slow.used(), [(1, 101), (0, 100)]);
}

#[test]
fn a_queue_reset_reads_1_until_no_request_is_in_flight() {
    let mut slow = SlowMachine::driven();
    slow.offer(2);
    slow.machine.write16(at::QUEUE_RESET, 1);
    slow.machine.settle();
    for heads in [[0], [1]] {
        assert_eq!(slow.machine.read::<2>(at::QUEUE_RESET), 1);
        slow.complete(&heads);
    }
    assert_eq!(slow.machine.read::<2>(at::QUEUE_RESET), 0);
    assert_eq!((slow.used(), slow.machine.read::<2>(at::QUEUE_ENABLE)), (vec![], 0));
}

#[test]
fn while_the_bus_keeps_the_device_from_memory_used_chains_wait() {
    let mut slow = SlowMachine::driven();
    slow.offer(2);
    slow.machine.config_write(4, &[2, 0]);
    slow.machine.settle();
    slow.complete(&[0]);
    slow.offer(1);
    assert_eq!((slow.used(), slow.log()), (vec![], vec!["stop 0".to_owned()]));
    slow.complete(&[1]);
    slow.machine.config_write(4, &[6, 0]);
    slow.machine.settle();
    assert_eq!(slow.used(), [(0, 100), (1, 101)]);
    assert_eq!(slow.log(), ["start 0 at 2"]);
    slow.complete(&[0]);
    assert_eq!(slow.used().len(), 3, "the request that was offered meanwhile");
}

#[test]
fn a_chain_that_was_put_back_is_taken_again() {
    let mut slow = SlowMachine::driven();
    *slow.orders.put_back.lock().unwrap() = true;
    slow.offer(2);
    slow.machine.serve();
    slow.complete(&[0, 1]);
    assert_eq!(slow.used(), [(0, 100), (1, 101)]);
    assert_eq!(slow.machine.transport.report()["queues"][0]["requests"], 2);
}

#[test]
fn more_requests_in_flight_than_the_queue_has_entries_stop_the_device() {
    let mut slow = SlowMachine::driven();
    slow.offer(ENTRIES);
    assert_eq!(slow.machine.status() & NEEDS_RESET, 0);
    slow.offer(1);
    assert_eq!(slow.machine.status() & NEEDS_RESET, NEEDS_RESET);
    slow.machine.write(at::DEVICE_STATUS, &[0]);
    slow.complete(&(0..ENTRIES).collect::<Vec<_>>());
    assert_eq!((slow.machine.status(), slow.used()), (0, vec![]));
}

#[test]
fn a_handler_that_cannot_start_stops_the_device_until_its_reset() {
    let slow = SlowMachine::driven();
    *slow.orders.refuses_to_start.lock().unwrap() = true;
    slow.machine.drive(COMMON_FEATURES);
    assert_eq!(slow.machine.status() & NEEDS_RESET, NEEDS_RESET);
    *slow.orders.refuses_to_start.lock().unwrap() = false;
    slow.machine.drive(COMMON_FEATURES);
    assert_eq!(slow.machine.status() & NEEDS_RESET, 0);
}

#[test]
fn a_queue_of_the_host_keeps_its_doorbell_and_its_call_eventfd_is_an_irqfd() {
    let slow = SlowMachine::new(Service::Host, InterruptSource::Eventfds);
    assert!(slow.machine.is_rung(), "the host looks at chains from before it was set up");
    slow.machine.serve();
    assert!(slow.machine.is_rung(), "the lane leaves the doorbell alone");
    let call = || slow.orders.call.lock().unwrap().as_ref().map(|call| call.try_clone().unwrap());
    call().unwrap().write(1).unwrap();
    assert_eq!(slow.machine.router.take_delivered(), [message(1)]);

    slow.machine.write16(at::QUEUE_MSIX_VECTOR, 0);
    slow.machine.settle();
    call().unwrap().write(1).unwrap();
    assert_eq!(slow.machine.router.take_delivered(), [message(0)]);
    slow.machine.write16(at::QUEUE_MSIX_VECTOR, 0xffff);
    slow.machine.settle();
    assert!(call().is_none());
    assert_eq!(slow.log(), ["vector", "vector"]);

    slow.machine.reset();
    slow.machine.serve();
    assert!(!slow.machine.is_rung(), "the lane watches it again");
    assert_eq!(slow.log(), ["reset", "stop 0"]);
}

#[test]
fn a_change_of_the_configuration_has_a_generation_and_an_interrupt() {
    let slow = SlowMachine::driven();
    let generation = || slow.machine.read::<1>(0x15);
    let before = generation();
    slow.config.update(1, &[9, 8]);
    assert_ne!(generation(), before);
    assert_eq!(slow.machine.read::<4>(at::DEVICE_CONFIG), 0x0408_0901);
    assert_eq!(slow.machine.router.take_delivered(), [message(0)]);
    assert_eq!(slow.machine.read::<1>(at::ISR), 2);
    slow.machine.reset();
    slow.config.update(0, &[7]);
    assert_eq!(slow.machine.router.take_delivered(), [], "no driver");
}

#[test]
fn the_driver_writes_the_writable_configuration_and_a_reset_restores_it() {
    let slow = SlowMachine::driven();
    slow.machine.write(at::DEVICE_CONFIG, &[0xff; 2]);
    assert_eq!((slow.machine.read::<4>(at::DEVICE_CONFIG), slow.log()), (0x0403_0201, vec![]));
    slow.machine.write(at::DEVICE_CONFIG + 1, &[0xff; 3]);
    assert_eq!(
        (slow.machine.read::<4>(at::DEVICE_CONFIG), slow.log()),
        (0x04ff_0201, vec!["written 1 3".into()])
    );
    slow.machine.reset();
    assert_eq!(slow.machine.read::<4>(at::DEVICE_CONFIG), 0x0403_0201);
}
