//! Packets in both directions (virtio 1.2 §5.1.6).

use vm_msi::domain::BusMaster;

use super::driver::{BUFFER, Direction, SIZE};
use super::*;

const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const TSO: u64 = MRG_RXBUF | GUEST_CSUM | GUEST_TSO4;

/// The packet as the driver reads it: in this many buffers.
fn received(packet: &[u8], buffers: u16) -> Vec<u8> {
    [&packet[..10], &buffers.to_le_bytes(), &packet[HEADER..]].concat()
}

#[test]
fn packets_reach_the_guest_unchanged_and_in_order() {
    for features in [0, MRG_RXBUF, TSO] {
        let mut driver = NetDriver::new(1, features);
        for _ in 0..10 {
            driver.offer(0, Direction::Writable, &[12, 2000]);
        }
        driver.kick(0);
        for number in 0..5 {
            driver.peers[0].send(&packet(number, 60 + number * 300)).unwrap();
        }
        driver.machine.settle();
        for number in 0..5 {
            assert_eq!(driver.receive().unwrap(), received(&packet(number, 60 + number * 300), 1));
        }
        assert_eq!((driver.receive(), driver.counter("received_packets")), (None, 5));
        assert_eq!(driver.machine.router.take_delivered(), [message(1)], "one interrupt for all");
    }
}

#[test]
fn packets_leave_the_guest_unchanged_and_in_order() {
    let mut driver = NetDriver::new(1, MRG_RXBUF);
    for number in 0..5 {
        driver.send(&packet(number, 60 + number * 300), &[12, 100]);
    }
    driver.kick(1);
    for number in 0..5 {
        assert_eq!(driver.sent().unwrap(), packet(number, 60 + number * 300));
        assert_eq!(driver.reap(1).unwrap().written, 0);
    }
    assert_eq!((driver.sent(), driver.counter("sent_packets")), (None, 5));
}

#[test]
fn a_large_packet_is_spread_over_buffers_that_are_full_but_for_the_last() {
    let mut driver = NetDriver::new(1, TSO);
    for _ in 0..50 {
        driver.offer(0, Direction::Writable, &[1536]);
    }
    driver.kick(0);
    let large = packet(0, 65_000);
    driver.peers[0].send(&large).unwrap();
    driver.peers[0].send(&packet(1, 100)).unwrap();
    driver.machine.settle();
    let lengths: Vec<_> = std::iter::from_fn(|| driver.reap(0)).map(|used| used.written).collect();
    let full = large.len() / 1536;
    assert_eq!(lengths[..full], vec![1536; full]);
    assert_eq!(lengths[full..], [(large.len() % 1536) as u32, 112]);
}

#[test]
fn a_packet_that_finds_too_few_buffers_waits_for_more() {
    let mut driver = NetDriver::new(1, TSO);
    for _ in 0..3 {
        driver.offer(0, Direction::Writable, &[100, 100]);
    }
    driver.peers[0].send(&packet(0, 5000)).unwrap();
    driver.peers[0].send(&packet(1, 50)).unwrap();
    driver.kick(0);
    assert!(driver.reap(0).is_none());
    driver.offer(0, Direction::Writable, &[4000]);
    driver.kick(0);
    assert!(driver.reap(0).is_none(), "it is still too large");
    for _ in 0..2 {
        driver.offer(0, Direction::Writable, &[4000]);
    }
    driver.kick(0);
    assert_eq!(driver.receive().unwrap(), received(&packet(0, 5000), 5));
    assert_eq!(driver.receive().unwrap(), received(&packet(1, 50), 1));
    assert_eq!(driver.counter("received_dropped"), 0);
}

#[test]
fn a_packet_that_is_too_large_for_the_queue_is_dropped_and_the_next_is_not() {
    let mut driver = NetDriver::new(1, TSO);
    for _ in 0..SIZE {
        driver.offer(0, Direction::Writable, &[64]);
    }
    driver.peers[0].send(&packet(0, 5000)).unwrap();
    driver.peers[0].send(&packet(1, 50)).unwrap();
    driver.kick(0);
    assert_eq!(driver.receive().unwrap(), received(&packet(1, 50), 1));
    assert_eq!(driver.counter("received_dropped"), 1);

    let mut driver = NetDriver::new(1, 0);
    for _ in 0..4 {
        driver.offer(0, Direction::Writable, &[1526]);
    }
    driver.peers[0].send(&packet(0, 1515)).unwrap();
    driver.peers[0].send(&packet(1, 1514)).unwrap();
    driver.kick(0);
    assert_eq!(driver.receive().unwrap(), received(&packet(1, 1514), 1));
    assert_eq!(driver.counter("received_dropped"), 1);
}

#[test]
fn flags_of_the_header_are_zero_for_a_driver_that_computes_no_checksums() {
    for (features, flags) in [(MRG_RXBUF, 0), (MRG_RXBUF | GUEST_CSUM, 3)] {
        let mut driver = NetDriver::new(1, features);
        driver.offer(0, Direction::Writable, &[2000]);
        let mut sent = packet(0, 100);
        sent[0] = 3;
        driver.peers[0].send(&sent).unwrap();
        driver.kick(0);
        assert_eq!(driver.receive().unwrap()[0], flags);
    }
}

#[test]
fn packets_for_which_the_tap_has_no_room_wait_and_go_when_it_has() {
    let mut driver = NetDriver::new(1, MRG_RXBUF);
    for number in 0..60 {
        driver.send(&packet(number, 200), &[]);
    }
    driver.kick(1);
    let taken = std::iter::from_fn(|| driver.reap(1)).count();
    assert!((1..60).contains(&taken), "{taken}");
    for number in 0..60 {
        assert_eq!(driver.sent().unwrap(), packet(number, 200), "{number}");
        driver.machine.settle();
    }
    assert_eq!(taken + std::iter::from_fn(|| driver.reap(1)).count(), 60);
    assert_eq!(driver.counter("sent_dropped"), 0);
}

#[test]
fn a_lane_without_buffers_sleeps_although_packets_wait() {
    let mut driver = NetDriver::new(1, MRG_RXBUF);
    driver.peers[0].send(&packet(0, 50)).unwrap();
    driver.machine.settle();
    assert_eq!(driver.machine.turn(), Turn::Idle);
    driver.offer(0, Direction::Writable, &[2000]);
    driver.kick(0);
    assert_eq!(driver.receive().unwrap(), received(&packet(0, 50), 1));
}

#[test]
fn nothing_of_a_reset_queue_is_used_and_the_next_driver_gets_the_next_packets() {
    let mut driver = NetDriver::new(1, TSO);
    for _ in 0..3 {
        driver.offer(0, Direction::Writable, &[100]);
    }
    driver.peers[0].send(&packet(0, 5000)).unwrap();
    driver.kick(0);
    for number in 0..60 {
        driver.send(&packet(number, 200), &[]);
    }
    driver.kick(1);
    driver.machine.write(at::DEVICE_STATUS, &[0]);
    driver.machine.settle();
    assert_eq!(driver.machine.status(), 0);
    assert!(driver.reap(0).is_none());
    assert_eq!(driver.counter("received_dropped"), 1, "the packet that waited");

    let before = std::iter::from_fn(|| driver.sent()).count();
    assert!(before < 60);
    driver.drive(MRG_RXBUF);
    driver.offer(0, Direction::Writable, &[2000]);
    driver.peers[0].send(&packet(7, 60)).unwrap();
    driver.kick(0);
    assert_eq!(driver.receive().unwrap(), received(&packet(7, 60), 1));
    driver.send(&packet(8, 60), &[]);
    driver.kick(1);
    assert_eq!(driver.sent().unwrap(), packet(8, 60));
}

#[test]
fn a_pause_of_the_bus_loses_no_packet_and_no_buffer() {
    let mut driver = NetDriver::new(1, MRG_RXBUF);
    for _ in 0..4 {
        driver.offer(0, Direction::Writable, &[BUFFER as u32]);
    }
    driver.kick(0);
    for number in 0..60 {
        driver.send(&packet(number, 200), &[]);
    }
    driver.kick(1);
    driver.machine.transport.set_bus_master(BusMaster::Disabled);
    driver.machine.settle();
    driver.peers[0].send(&packet(1, 70)).unwrap();
    driver.machine.settle();
    assert!(driver.reap(0).is_none());
    driver.machine.transport.set_bus_master(BusMaster::Enabled);
    driver.machine.settle();
    assert_eq!(driver.receive().unwrap(), received(&packet(1, 70), 1));
    for number in 0..60 {
        assert_eq!(driver.sent().unwrap(), packet(number, 200), "{number}");
        driver.machine.settle();
    }
}

#[test]
fn configuration_has_the_address_the_link_the_pairs_and_the_mtu() {
    let driver = NetDriver::new(2, MQ | CTRL_VQ);
    let byte = |at| driver.machine.read::<1>(at::DEVICE_CONFIG + at);
    assert_eq!([0, 1, 2, 3, 4, 5].map(byte), [2, 0, 0, 0, 0, 1]);
    let word = |at| driver.machine.read::<2>(at::DEVICE_CONFIG + at);
    assert_eq!([6, 8, 10].map(word), [1, 2, 1500]);
    assert_eq!(driver.machine.read::<2>(at::NUM_QUEUES), 5);
}
