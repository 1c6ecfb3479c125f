//! Random packets, chains, pauses and resets against a model: two queues of packets.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use vm_msi::domain::BusMaster;

use super::driver::{BUFFER, Direction};
use super::*;

const TSO: u64 = MRG_RXBUF | 1 << 1 | 1 << 7;
/// The largest packet. All buffers of a queue together have room for it, so none is dropped for its size.
const LARGEST: usize = 3000;

#[derive(Clone, Debug)]
enum Step {
    /// Offers a receive chain.
    Offer(Vec<u32>),
    /// The link delivers a packet of this length.
    Deliver(usize),
    /// The driver sends a packet of this length, cut at these lengths.
    Send(usize, Vec<u32>),
    /// The link takes this many packets.
    Take(usize),
    Settle,
    Pause,
    Reset(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec(30..=BUFFER as u32, 1..4).prop_map(Step::Offer).boxed(),
        1 => Just(Step::Offer(vec![60])),
        6 => (0..LARGEST).prop_map(Step::Deliver),
        6 => (0..LARGEST, vec(1..400u32, 0..4)).prop_map(|(len, cut)| Step::Send(len, cut)),
        4 => (1..12usize).prop_map(Step::Take),
        6 => Just(Step::Settle),
        1 => Just(Step::Pause),
        1 => any::<bool>().prop_map(Step::Reset),
    ]
}

/// What is under way.
#[derive(Default)]
struct Model {
    number: usize,
    to_guest: VecDeque<Vec<u8>>,
    to_link: VecDeque<Vec<u8>>,
    /// How many of the first packets to the guest may be lost, because the queue was stopped.
    may_be_lost: usize,
    spread: bool,
}

impl Model {
    fn packet(&mut self, len: usize) -> Vec<u8> {
        self.number += 1;
        packet(self.number, len)
    }

    fn apply(&mut self, driver: &mut NetDriver, step: &Step) {
        match step {
            Step::Offer(lengths) => {
                // A chain that takes any packet, for a driver without mergeable buffers.
                let lengths = if self.spread { lengths.clone() } else { vec![BUFFER as u32] };
                if lengths.len() <= driver.free(0) {
                    driver.offer(0, Direction::Writable, &lengths);
                    driver.kick(0);
                }
            }
            Step::Deliver(len) => {
                let packet = self.packet(*len);
                if driver.peers[0].send(&packet).is_ok() {
                    self.to_guest.push_back(packet);
                }
            }
            Step::Send(len, cut) => {
                if driver.free(1) > cut.len() {
                    let packet = self.packet(*len);
                    driver.send(&packet, cut);
                    driver.kick(1);
                    self.to_link.push_back(packet);
                }
            }
            Step::Take(count) => {
                for _ in 0..*count {
                    if let Some(sent) = driver.sent() {
                        assert_eq!(Some(sent), self.to_link.pop_front());
                    }
                }
            }
            Step::Settle => driver.machine.settle(),
            Step::Pause => {
                let dropped = driver.counter("received_dropped");
                driver.machine.transport.set_bus_master(BusMaster::Disabled);
                driver.machine.settle();
                driver.machine.transport.set_bus_master(BusMaster::Enabled);
                driver.machine.settle();
                // A packet that waited for buffers is lost, and counted.
                if driver.counter("received_dropped") > dropped {
                    self.may_be_lost = self.to_guest.len();
                }
            }
            Step::Reset(spread) => self.reset(driver, *spread),
        }
        self.receive(driver);
    }

    /// Compares what the guest has received, and frees what it has sent.
    fn receive(&mut self, driver: &mut NetDriver) {
        while let Some(received) = driver.receive() {
            loop {
                let expected = self.to_guest.pop_front().expect("a packet that nobody has sent");
                let is_expected = received[HEADER..] == expected[HEADER..];
                assert!(is_expected || self.may_be_lost > 0);
                self.may_be_lost = self.may_be_lost.saturating_sub(1);
                if is_expected {
                    break;
                }
            }
        }
        while driver.reap(1).is_some() {}
    }

    fn reset(&mut self, driver: &mut NetDriver, spread: bool) {
        driver.machine.write(at::DEVICE_STATUS, &[0]);
        driver.machine.settle();
        // Packets that were not sent are lost, and those that the device has read for the guest's old buffers.
        self.may_be_lost = self.to_guest.len();
        while let Some(sent) = driver.sent() {
            assert_eq!(Some(sent), self.to_link.pop_front());
        }
        self.to_link.clear();
        self.spread = spread;
        driver.drive(if spread { TSO } else { 0 });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_arrives_once_in_order_and_unchanged(steps in vec(step(), 1..120)) {
        let mut driver = NetDriver::new(1, TSO);
        let mut model = Model { spread: true, ..Model::default() };
        for step in &steps {
            model.apply(&mut driver, step);
        }
        // With buffers for all, nothing is left under way.
        for _ in 0..100 {
            model.apply(&mut driver, &Step::Take(100));
            model.apply(&mut driver, &Step::Offer(vec![BUFFER as u32]));
            model.apply(&mut driver, &Step::Settle);
        }
        prop_assert!(model.to_guest.len() <= model.may_be_lost && model.to_link.is_empty());
        prop_assert_eq!(driver.counter("sent_dropped"), 0);
        prop_assert_eq!(driver.invalid(0) + driver.invalid(1), 0);
    }
}
