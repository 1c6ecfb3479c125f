//! Chains that are no packets, and packets that the tap refuses.

use super::driver::{Direction, buffer};
use super::*;
use Direction::{Readable, Writable};

#[test]
fn a_chain_that_is_no_packet_is_used_and_counted_and_the_next_packet_goes() {
    let own = buffer(1, 0);
    for (buffers, directions) in [
        (vec![(own, 11)], vec![Readable]),
        (vec![(own, 100)], vec![Writable]),
        (vec![(own, 100), (own, 10)], vec![Readable, Writable]),
        (vec![(own, 100), (RAM - 10, 20)], vec![Readable, Readable]),
        (vec![(u64::MAX - 10, 100)], vec![Readable]),
        (vec![(0, RAM as u32)], vec![Readable]),
        (vec![(own, 0)], vec![Readable]),
    ] {
        let mut driver = NetDriver::new(1, MRG_RXBUF);
        driver.offer_any(1, &buffers, &directions);
        driver.send(&packet(0, 60), &[]);
        driver.kick(1);
        assert_eq!(driver.reap(1).unwrap().written, 0, "{buffers:x?}");
        assert_eq!(driver.sent().unwrap(), packet(0, 60));
        assert_eq!((driver.sent(), driver.invalid(1)), (None, 1), "{buffers:x?}");
        assert_eq!(driver.machine.status() & NEEDS_RESET, 0);
    }
}

#[test]
fn a_chain_that_takes_no_packet_is_used_empty_and_counted_and_the_next_is_filled() {
    let own = buffer(0, 0);
    for (buffers, directions) in [
        (vec![(own, 11)], vec![Writable]),
        (vec![(own, 100)], vec![Readable]),
        (vec![(own, 100), (own, 2000)], vec![Readable, Writable]),
        (vec![(own, 2000), (RAM - 10, 20)], vec![Writable, Writable]),
    ] {
        let mut driver = NetDriver::new(1, MRG_RXBUF);
        driver.offer_any(0, &buffers, &directions);
        driver.offer(0, Writable, &[2000]);
        driver.peers[0].send(&packet(0, 60)).unwrap();
        driver.kick(0);
        assert_eq!(driver.reap(0).unwrap().written, 0, "{buffers:x?}");
        assert_eq!(driver.receive().unwrap()[HEADER..], packet(0, 60)[HEADER..]);
        assert_eq!(driver.invalid(0), 1, "{buffers:x?}");
    }
}

#[test]
fn an_invalid_chain_between_valid_ones_costs_neither_at_a_pause() {
    use vm_msi::domain::BusMaster;

    let mut driver = NetDriver::new(1, MRG_RXBUF | 1 << 1 | 1 << 7);
    driver.offer(0, Writable, &[2000]);
    driver.offer_any(0, &[(buffer(0, 0), 5)], &[Writable]);
    driver.offer(0, Writable, &[2000]);
    driver.kick(0);
    driver.machine.transport.set_bus_master(BusMaster::Disabled);
    driver.machine.settle();
    driver.machine.transport.set_bus_master(BusMaster::Enabled);
    driver.machine.settle();
    let lengths: Vec<_> = std::iter::from_fn(|| driver.reap(0)).map(|used| used.written).collect();
    assert_eq!(lengths, [0, 0, 0], "each comes back once");
    driver.offer(0, Writable, &[2000]);
    driver.peers[0].send(&packet(0, 60)).unwrap();
    driver.kick(0);
    assert_eq!(driver.receive().unwrap()[HEADER..], packet(0, 60)[HEADER..]);
}

#[test]
fn a_packet_that_the_tap_refuses_is_dropped_and_counted() {
    let mut driver = NetDriver::new(1, MRG_RXBUF);
    let peer = driver.peers.remove(0);
    driver.send(&packet(0, 60), &[]);
    drop(peer);
    driver.kick(1);
    assert_eq!(driver.reap(1).unwrap().written, 0);
    assert_eq!((driver.counter("sent_dropped"), driver.counter("sent_packets")), (1, 0));
}
