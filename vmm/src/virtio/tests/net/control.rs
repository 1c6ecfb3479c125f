//! The control queue (virtio 1.2 §5.1.6.5), and what it sets at the tap.

use super::driver::Direction::{Readable, Writable};
use super::*;

const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
const GUEST_CSUM: u64 = 1 << 1;
const OK: u8 = 0;
const ERROR: u8 = 1;
/// The request's place in memory.
const AT: u64 = 0xe_0000;

/// Makes a request and returns the device's answer.
fn command(driver: &mut NetDriver, queue: u16, request: &[u8]) -> u8 {
    driver.machine.memory.write_slice(request, GuestAddress(AT)).unwrap();
    driver.machine.memory.write_obj(0xffu8, GuestAddress(AT + 0x100)).unwrap();
    driver.offer_any(queue, &[(AT, request.len() as u32), (AT + 0x100, 1)], &[Readable, Writable]);
    driver.kick(queue);
    assert_eq!(driver.reap(queue).unwrap().written, 1);
    driver.machine.memory.read_obj(GuestAddress(AT + 0x100)).unwrap()
}

#[test]
fn the_driver_chooses_how_many_pairs_are_used() {
    let mut driver = NetDriver::new(2, MRG_RXBUF | CTRL_VQ | MQ);
    for (request, answer) in [
        ([4, 0, 2, 0], OK),
        ([4, 0, 0, 0], ERROR),
        ([4, 0, 3, 0], ERROR),
        ([4, 1, 1, 0], ERROR),
        ([4, 0, 1, 0], OK),
    ] {
        assert_eq!(command(&mut driver, 4, &request), answer, "{request:?}");
    }
    assert_eq!(*driver.link.attached.lock().unwrap(), [1, 2, 1]);
    assert_eq!(driver.machine.transport.report()["control_errors"], 3);
    driver.drive(0);
    assert_eq!(*driver.link.attached.lock().unwrap(), [1, 2, 1, 1], "a driver begins with one pair");
}

#[test]
fn each_pair_has_its_packets() {
    let mut driver = NetDriver::new(2, MRG_RXBUF | CTRL_VQ | MQ);
    assert_eq!(command(&mut driver, 4, &[4, 0, 2, 0]), OK);
    let at = AT + 0x1000;
    driver.offer_any(2, &[(at, 2000)], &[Writable]);
    driver.kick(2);
    driver.peers[1].send(&packet(1, 60)).unwrap();
    driver.machine.settle();
    let used = driver.reap(2).unwrap();
    assert_eq!(driver.contents(&used)[HEADER..], packet(1, 60)[HEADER..]);
    driver.machine.memory.write_slice(&packet(2, 60), GuestAddress(at)).unwrap();
    driver.offer_any(3, &[(at, 72)], &[Readable]);
    driver.kick(3);
    let mut sent = [0; 100];
    assert_eq!(driver.peers[1].recv(&mut sent).unwrap(), 72);
    assert_eq!((&sent[..72], driver.sent()), (&packet(2, 60)[..], None));
}

#[test]
fn without_several_pairs_the_third_queue_is_the_control_queue() {
    let mut driver = NetDriver::new(2, MRG_RXBUF | CTRL_VQ | CTRL_GUEST_OFFLOADS | GUEST_CSUM);
    assert_eq!(command(&mut driver, 2, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]), OK);
    assert_eq!(command(&mut driver, 2, &[4, 0, 1, 0]), ERROR, "it has not accepted several pairs");
}

#[test]
fn the_tap_sends_what_the_driver_accepts_and_then_what_it_sets() {
    let features = MRG_RXBUF | CTRL_VQ | CTRL_GUEST_OFFLOADS | GUEST_CSUM;
    let mut driver = NetDriver::new(1, features);
    let set = |bits: u64| [&[5, 0][..], &bits.to_le_bytes()].concat();
    assert_eq!(command(&mut driver, 2, &set(0)), OK);
    assert_eq!(command(&mut driver, 2, &set(GUEST_CSUM)), OK);
    assert_eq!(command(&mut driver, 2, &set(GUEST_CSUM | 1 << 7)), ERROR, "TSO4 is not accepted");
    assert_eq!(command(&mut driver, 2, &[5, 0, 0]), ERROR, "the data is too short");
    let expected = [Offloads::CHECKSUM, Offloads::NONE, Offloads::CHECKSUM];
    assert_eq!(*driver.link.offloads.lock().unwrap(), expected);
    driver.drive(MRG_RXBUF);
    assert_eq!(driver.link.offloads.lock().unwrap().last(), Some(&Offloads::NONE));
}

#[test]
fn a_request_that_is_none_gets_an_error_if_it_has_a_place_for_it() {
    let mut driver = NetDriver::new(1, MRG_RXBUF | CTRL_VQ);
    for request in [&[4][..], &[0, 0, 1], &[0xff, 0xff], &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(command(&mut driver, 2, request), ERROR, "{request:?}");
    }
    driver.offer_any(2, &[(AT, 2)], &[Readable]);
    driver.kick(2);
    assert_eq!((driver.reap(2).unwrap().written, driver.invalid(2)), (0, 1));
    assert_eq!(driver.machine.status() & NEEDS_RESET, 0);
}
