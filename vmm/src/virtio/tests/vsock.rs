//! The socket device (virtio 1.2 §5.10), with a driver that speaks its packets and programs on Unix sockets.

mod descriptors;

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::vsock::host::HostSocket;
use super::super::vsock::{GuestCid, HostEnd, Vsock};
use super::driver::QueueDriver;
use super::*;

const CID: u64 = 3;
const PORT: u32 = 5000;
const WINDOW: u32 = 64 << 10;
const RECEIVE_BUFFERS: u64 = 0x4_0000;
const BUFFER: u32 = 4096;
const SENT: u64 = 0x8_0000;
/// Operations.
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RESET: u16 = 3;
const SHUTDOWN: u16 = 4;
const DATA: u16 = 5;
const CREDIT_UPDATE: u16 = 6;
const CREDIT_REQUEST: u16 = 7;

/// A packet. The driver sends it from the guest's port `from` to port `to` of the host, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    from: u32,
    to: u32,
    operation: u16,
    flags: u32,
    credit: (u32, u32),
    data: Vec<u8>,
}

impl Packet {
    fn new(from: u32, to: u32, operation: u16) -> Self {
        Self { from, to, operation, flags: 0, credit: (WINDOW, 0), data: Vec::new() }
    }

    fn data(from: u32, to: u32, data: &[u8]) -> Self {
        Self { data: data.to_vec(), ..Self::new(from, to, DATA) }
    }

    fn bytes(&self, source: u64, destination: u64) -> Vec<u8> {
        let len = self.data.len() as u32;
        let cids = [source.to_le_bytes(), destination.to_le_bytes()].concat();
        let kind = u32::from(self.operation) << 16 | 1;
        let words = [self.from, self.to, len, kind, self.flags, self.credit.0, self.credit.1];
        [cids, words.iter().flat_map(|word| word.to_le_bytes()).collect(), self.data.clone()].concat()
    }
}

/// A device, its driver, and the directory of its sockets.
struct Sockets {
    machine: Machine,
    queues: [QueueDriver; 3],
    path: PathBuf,
    /// The buffer of each chain of the receive queue.
    buffers: HashMap<u16, u64>,
}

impl Sockets {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("vmm-vsock-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("socket");
        let end = HostEnd::Unix(HostSocket::bind(&path).unwrap());
        let machine = Machine::of(Vsock::model(GuestCid::new(3).unwrap(), end, None).unwrap());
        machine.enable_msix();
        let queue = |index| QueueDriver::new(index, 0x2_0000 + u64::from(index) * QueueDriver::BYTES, 8);
        let mut sockets = Self { machine, queues: [0, 1, 2].map(queue), path, buffers: HashMap::new() };
        sockets.machine.drive_queues(COMMON_FEATURES | 1, &mut sockets.queues);
        sockets
    }

    /// Has as many receive buffers as the queue takes, and gives the packets that came.
    fn receive(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            let mut free: Vec<u64> = (0..8).map(|n| RECEIVE_BUFFERS + n * u64::from(BUFFER)).collect();
            free.retain(|buffer| !self.buffers.values().any(|used| used == buffer));
            for buffer in free {
                let head = self.queues[0].offer(&self.machine, &[], &[(buffer, BUFFER)]);
                self.buffers.insert(head, buffer);
            }
            self.queues[0].kick(&self.machine);
            self.machine.settle();
            let used = self.queues[0].take_used(&self.machine);
            if used.is_empty() {
                return packets;
            }
            for (head, len) in used {
                let mut bytes = vec![0; len as usize];
                let buffer = self.buffers.remove(&head).unwrap();
                self.machine.memory.read_slice(&mut bytes, GuestAddress(buffer)).unwrap();
                let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                assert_eq!((word(8), word(24), word(28) & 0xffff), (CID as u32, len - 44, 1));
                packets.push(Packet {
                    from: word(16),
                    to: word(20),
                    operation: (word(28) >> 16) as u16,
                    flags: word(32),
                    credit: (word(36), word(40)),
                    data: bytes[44..].to_vec(),
                });
            }
        }
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.machine.memory.write_slice(bytes, GuestAddress(SENT)).unwrap();
        self.queues[1].offer(&self.machine, &[(SENT, bytes.len() as u32)], &[]);
        self.queues[1].kick(&self.machine);
        self.machine.settle();
        self.queues[1].take_used(&self.machine);
    }

    fn send(&mut self, packet: &Packet) {
        self.send_bytes(&packet.bytes(CID, 2));
    }

    /// The operations of the packets that came.
    fn operations(&mut self) -> Vec<u16> {
        self.receive().iter().map(|packet| packet.operation).collect()
    }

    fn listen(&self, port: u32) -> UnixListener {
        let path = format!("{}_{port}", self.path.display());
        UnixListener::bind(path).unwrap()
    }

    /// A connection of the guest, from a port of its own.
    fn connect(&mut self, from: u32) -> UnixStream {
        let listener = self.listen(PORT);
        self.send(&Packet::new(from, PORT, REQUEST));
        assert_eq!(self.operations(), [RESPONSE]);
        let stream = listener.accept().unwrap().0;
        std::fs::remove_file(format!("{}_{PORT}", self.path.display())).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    fn count(&self, name: &str) -> u64 {
        self.machine.transport.report()[name].as_u64().unwrap()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // Where a test fails, sockets are left in it.
        let _ = std::fs::remove_dir_all(self.path.parent().unwrap());
    }
}

/// What can be read now. `None` at the end of the stream.
fn read(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 20];
    match stream.read(&mut bytes) {
        Ok(0) => None,
        Ok(count) => Some(bytes[..count].to_vec()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Vec::new()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_configuration_has_the_guests_cid() {
    assert_eq!(Sockets::new().machine.read::<8>(at::DEVICE_CONFIG), CID);
}

#[test]
fn a_guest_connects_to_a_port_of_the_host_and_data_goes_both_ways() {
    let mut sockets = Sockets::new();
    let mut stream = sockets.connect(1000);
    sockets.send(&Packet::data(1000, PORT, b"to the host"));
    assert_eq!(read(&mut stream).unwrap(), b"to the host");
    stream.write_all(b"to the guest").unwrap();
    let packets = sockets.receive();
    assert_eq!(packets.len(), 1);
    assert_eq!((packets[0].from, packets[0].to, packets[0].operation), (PORT, 1000, DATA));
    assert_eq!(packets[0].credit, (WINDOW, 11));
    assert_eq!(packets[0].data, b"to the guest");
    assert_eq!((sockets.count("to_host_bytes"), sockets.count("to_guest_bytes")), (11, 12));
}

#[test]
fn a_host_program_connects_to_a_port_of_the_guest_by_a_line() {
    let mut sockets = Sockets::new();
    let mut stream = UnixStream::connect(&sockets.path).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream.write_all(b"CONN").unwrap();
    assert!(sockets.receive().is_empty());
    stream.write_all(b"ECT 80\nearly").unwrap();
    let asked = sockets.receive();
    assert_eq!((asked.len(), asked[0].to, asked[0].operation), (1, 80, REQUEST));
    assert_eq!(read(&mut stream).unwrap(), b"", "the guest has not accepted");
    let host = asked[0].from;
    sockets.send(&Packet::new(80, host, RESPONSE));
    assert_eq!(read(&mut stream).unwrap(), format!("OK {host}\n").into_bytes());
    let packets = sockets.receive();
    assert_eq!((packets[0].operation, &packets[0].data[..]), (DATA, &b"early"[..]));
}

#[test]
fn a_host_program_that_the_guest_refuses_or_that_asks_for_nothing_is_closed() {
    let mut sockets = Sockets::new();
    let mut refused = UnixStream::connect(&sockets.path).unwrap();
    refused.write_all(b"CONNECT 80\n").unwrap();
    let host = sockets.receive()[0].from;
    sockets.send(&Packet::new(80, host, RESET));
    assert_eq!(read(&mut refused), None);
    for line in [&b"GET / HTTP/1.1\n"[..], b"CONNECT x\n", &[b'C'; 100]] {
        let mut stream = UnixStream::connect(&sockets.path).unwrap();
        stream.write_all(line).unwrap();
        assert!(sockets.receive().is_empty());
        assert!(!matches!(stream.read(&mut [0; 8]), Ok(1..)));
    }
    assert_eq!(sockets.count("connections"), 0);
}

#[test]
fn a_request_without_a_listener_and_packets_without_a_connection_are_reset() {
    let mut sockets = Sockets::new();
    for operation in [REQUEST, RESPONSE, SHUTDOWN, DATA, CREDIT_UPDATE, CREDIT_REQUEST] {
        sockets.send(&Packet::new(1000, PORT, operation));
        let packets = sockets.receive();
        assert_eq!(packets.len(), 1, "{operation}");
        assert_eq!((packets[0].from, packets[0].to, packets[0].operation), (PORT, 1000, RESET));
    }
    sockets.send(&Packet::new(1000, PORT, RESET));
    assert!(sockets.receive().is_empty(), "RST is not answered by RST");
    assert_eq!((sockets.count("refused"), sockets.count("violations")), (1, 0));
}

#[test]
fn packets_that_break_a_rule_are_reset_and_counted() {
    let mut sockets = Sockets::new();
    let good = Packet::new(1000, PORT, REQUEST);
    // Another guest's CID, another destination, another type, and operations that there are not.
    sockets.send_bytes(&good.bytes(CID + 1, 2));
    sockets.send_bytes(&good.bytes(CID | 1 << 32, 2));
    sockets.send_bytes(&good.bytes(CID, 9));
    let mut other = good.bytes(CID, 2);
    other[28] = 7;
    sockets.machine.memory.write_slice(&other, GuestAddress(SENT)).unwrap();
    sockets.queues[1].offer(&sockets.machine, &[(SENT, 44)], &[]);
    sockets.send(&Packet::new(1000, PORT, 0));
    sockets.send(&Packet::new(1000, PORT, 8));
    assert_eq!(sockets.count("violations"), 6);
    // The assertion of `receive` on the type does not hold for the one of another type.
    sockets.queues[0].offer(&sockets.machine, &[], &[(RECEIVE_BUFFERS, BUFFER)]);
    sockets.queues[0].kick(&sockets.machine);
    sockets.machine.settle();
    assert_eq!(sockets.count("resets"), 6);
    // A packet without a header.
    sockets.send_bytes(&[0; 43]);
    assert_eq!(sockets.count("violations"), 7);
}

#[test]
fn a_connection_ends_when_the_guest_breaks_its_rules() {
    let lies: [fn() -> Packet; 6] = [
        || Packet::new(1000, PORT, REQUEST),
        || Packet::new(1000, PORT, RESPONSE),
        || Packet::new(1000, PORT, 99),
        || Packet { credit: (WINDOW, 1), ..Packet::new(1000, PORT, CREDIT_UPDATE) },
        || Packet::data(1000, PORT, &vec![0; WINDOW as usize + 1]),
        || Packet { credit: (WINDOW, 0x7fff_ffff), ..Packet::data(1000, PORT, b"x") },
    ];
    for lie in lies {
        let mut sockets = Sockets::new();
        let mut stream = sockets.connect(1000);
        sockets.send(&lie());
        assert_eq!(sockets.operations(), [RESET], "{:?}", lie().operation);
        assert_eq!(read(&mut stream), None);
        assert_eq!((sockets.count("violations"), sockets.count("connections")), (1, 0));
    }
}

#[test]
fn data_beyond_the_buffers_of_its_chain_ends_the_connection() {
    let mut sockets = Sockets::new();
    let mut stream = sockets.connect(1000);
    let bytes = Packet::data(1000, PORT, &[7; 100]).bytes(CID, 2);
    sockets.send_bytes(&bytes[..143]);
    assert_eq!(sockets.operations(), [RESET]);
    assert_eq!(read(&mut stream), None);
    assert_eq!(sockets.machine.transport.report()["queues"][1]["invalid"], 1);
}

#[test]
fn a_guest_that_sends_more_than_its_credit_is_reset_and_one_that_waits_is_not() {
    let mut sockets = Sockets::new();
    let mut stream = sockets.connect(1000);
    let mut sent = 0;
    // Until the socket is full and the device holds a window.
    let mut confirmed = 0;
    loop {
        let room = WINDOW - (sent - confirmed);
        if room == 0 {
            break;
        }
        let len = room.min(8192);
        sockets.send(&Packet::data(1000, PORT, &vec![1; len as usize]));
        sent += len;
        confirmed = sockets.receive().last().map_or(confirmed, |packet| packet.credit.1);
    }
    assert_eq!(sockets.count("connections"), 1);
    let read_bytes = read(&mut stream).unwrap().len();
    assert!(read_bytes > 0);
    sockets.machine.settle();
    let updates = sockets.receive();
    assert_eq!(updates.last().map(|packet| packet.operation), Some(CREDIT_UPDATE));
    let room = WINDOW - (sent - updates.last().unwrap().credit.1);
    sockets.send(&Packet::data(1000, PORT, &vec![1; room as usize + 1]));
    assert!(sockets.operations().contains(&RESET));
    assert_eq!(sockets.count("violations"), 1);
}

#[test]
fn the_device_sends_no_more_than_the_guest_has_room_for_and_asks_once() {
    let mut sockets = Sockets::new();
    let mut stream = sockets.connect(1000);
    sockets.send(&Packet { credit: (10, 0), ..Packet::new(1000, PORT, CREDIT_UPDATE) });
    stream.write_all(b"0123456789abcdef").unwrap();
    let packets = sockets.receive();
    let seen: Vec<_> = packets.iter().map(|packet| (packet.operation, packet.data.len())).collect();
    assert_eq!(seen, [(DATA, 10), (CREDIT_REQUEST, 0)]);
    assert!(sockets.receive().is_empty());
    sockets.send(&Packet { credit: (10, 4), ..Packet::new(1000, PORT, CREDIT_UPDATE) });
    assert_eq!(sockets.receive()[0].data, b"abcd");
}

#[test]
fn each_direction_ends_by_itself() {
    let mut sockets = Sockets::new();
    let mut stream = sockets.connect(1000);
    // The host ends first: its last bytes come before the end.
    stream.write_all(b"last").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let packets = sockets.receive();
    let seen: Vec<_> = packets.iter().map(|packet| (packet.operation, packet.flags)).collect();
    assert_eq!(seen, [(DATA, 0), (SHUTDOWN, 2)]);
    sockets.send(&Packet::data(1000, PORT, b"still"));
    assert_eq!(read(&mut stream).unwrap(), b"still");
    sockets.send(&Packet { flags: 2, ..Packet::new(1000, PORT, SHUTDOWN) });
    assert_eq!(read(&mut stream), None);
    sockets.receive();
    sockets.send(&Packet { flags: 3, ..Packet::new(1000, PORT, SHUTDOWN) });
    assert_eq!(sockets.operations(), [RESET], "the end is confirmed");
    assert_eq!((sockets.count("connections"), sockets.count("violations")), (0, 0));
}

#[test]
fn a_host_program_that_closes_ends_both_directions() {
    let mut sockets = Sockets::new();
    let mut stream = sockets.connect(1000);
    stream.write_all(b"bye").unwrap();
    drop(stream);
    let packets = sockets.receive();
    let seen: Vec<_> = packets.iter().map(|packet| (packet.operation, packet.flags)).collect();
    assert_eq!(seen, [(DATA, 0), (SHUTDOWN, 3)]);
    sockets.send(&Packet::new(1000, PORT, RESET));
    assert_eq!(sockets.count("connections"), 0);
}

#[test]
fn data_of_a_guest_that_closes_reaches_a_slow_host() {
    let mut sockets = Sockets::new();
    let mut stream = sockets.connect(1000);
    let mut sent = Vec::new();
    while sent.len() < 3 * WINDOW as usize {
        let part: Vec<u8> = (0..8192).map(|at| (at * 3 + sent.len()) as u8).collect();
        sockets.send(&Packet::data(1000, PORT, &part));
        sent.extend(part);
        sockets.receive();
    }
    sockets.send(&Packet { flags: 3, ..Packet::new(1000, PORT, SHUTDOWN) });
    let mut received = Vec::new();
    while let Some(bytes) = read(&mut stream) {
        received.extend(bytes);
        sockets.machine.settle();
    }
    assert!(received == sent);
    assert_eq!(sockets.operations().last(), Some(&RESET));
}

#[test]
fn a_reset_of_the_device_closes_the_connections() {
    let mut sockets = Sockets::new();
    let mut stream = sockets.connect(1000);
    sockets.machine.reset();
    assert_eq!(read(&mut stream), None);
    sockets.buffers.clear();
    let Sockets { machine, queues, .. } = &mut sockets;
    machine.drive_queues(COMMON_FEATURES | 1, queues);
    let mut stream = sockets.connect(1000);
    sockets.send(&Packet::data(1000, PORT, b"anew"));
    assert_eq!(read(&mut stream).unwrap(), b"anew");
}

#[test]
fn a_guest_without_receive_buffers_is_not_served_for_ever() {
    let mut sockets = Sockets::new();
    // Each packet is owed an RST. The device stops to take them, and goes on when there are buffers.
    for _ in 0..100 {
        sockets
            .machine
            .memory
            .write_slice(&Packet::new(1, 2, DATA).bytes(CID, 2), GuestAddress(SENT))
            .unwrap();
        while sockets.queues[1].has_room(1) {
            sockets.queues[1].offer(&sockets.machine, &[(SENT, 44)], &[]);
        }
        sockets.queues[1].kick(&sockets.machine);
        sockets.machine.settle();
        sockets.queues[1].take_used(&sockets.machine);
    }
    assert_eq!(sockets.count("resets"), 128);
    assert_eq!(sockets.receive().len(), 128 + 8);
}

#[test]
fn a_receive_buffer_outside_of_ram_costs_the_connection_and_no_other() {
    let mut sockets = Sockets::new();
    let mut first = sockets.connect(1000);
    let mut second = sockets.connect(1001);
    // The buffers that the driver has offered take what comes first.
    for _ in 0..8 {
        first.write_all(b"x").unwrap();
        sockets.machine.settle();
    }
    let used = sockets.queues[0].take_used(&sockets.machine);
    assert_eq!(used.len(), 8);
    sockets.buffers.retain(|head, _| used.iter().all(|(taken, _)| taken != head));
    sockets.queues[0].offer(&sockets.machine, &[], &[(RAM - 8, 200)]);
    sockets.queues[0].kick(&sockets.machine);
    sockets.machine.settle();
    first.write_all(b"lost").unwrap();
    sockets.machine.settle();
    assert_eq!(sockets.queues[0].take_used(&sockets.machine).len(), 1);
    assert_eq!(read(&mut first), None);
    assert_eq!(sockets.operations(), [RESET]);
    second.write_all(b"y").unwrap();
    assert_eq!(sockets.operations(), [DATA]);
}

/// A step of a random run.
#[derive(Clone, Copy, Debug)]
enum Step {
    HostWrites(usize),
    HostReads,
    GuestSends(u32),
    GuestReceives,
    /// The guest's program has read this many bytes.
    GuestConsumes(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..20_000usize).prop_map(Step::HostWrites),
        Just(Step::HostReads),
        (1..20_000u32).prop_map(Step::GuestSends),
        Just(Step::GuestReceives),
        (1..20_000u32).prop_map(Step::GuestConsumes),
    ];
    proptest::collection::vec(step, 1..120)
}

/// The guest's side of a connection with a buffer of 16 KiB.
#[derive(Default)]
struct GuestEnd {
    sent: u32,
    confirmed: u32,
    received: u32,
    consumed: u32,
    stream: Vec<u8>,
}

const GUEST_BUFFER: u32 = 16 << 10;

impl GuestEnd {
    fn take(&mut self, packets: Vec<Packet>) {
        for packet in packets {
            assert!([DATA, CREDIT_UPDATE, CREDIT_REQUEST].contains(&packet.operation), "{packet:?}");
            self.received += packet.data.len() as u32;
            assert!(self.received - self.consumed <= GUEST_BUFFER, "the device overruns the guest");
            self.stream.extend(packet.data);
            self.confirmed = packet.credit.1;
            assert!(self.confirmed <= self.sent);
        }
    }

    fn credit(&self) -> (u32, u32) {
        (GUEST_BUFFER, self.consumed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn both_streams_arrive_whole_and_in_order_and_nobody_is_overrun(steps in steps()) {
        let mut sockets = Sockets::new();
        let mut stream = sockets.connect(1000);
        let mut guest = GuestEnd::default();
        sockets.send(&Packet { credit: guest.credit(), ..Packet::new(1000, PORT, CREDIT_UPDATE) });
        let (mut to_guest, mut to_host, mut host_read) = (Vec::<u8>::new(), VecDeque::<u8>::new(), 0usize);
        let mut next = 0u8;
        let mut some = |len: usize| -> Vec<u8> {
            (0..len).map(|_| { next = next.wrapping_mul(5).wrapping_add(3); next }).collect()
        };
        let drain = [Step::HostReads, Step::GuestReceives, Step::GuestConsumes(u32::MAX)].repeat(80);
        for step in steps.into_iter().chain(drain) {
            match step {
                Step::HostWrites(len) => {
                    let bytes = some(len);
                    let count = stream.write(&bytes).unwrap_or(0);
                    to_guest.extend(&bytes[..count]);
                }
                Step::HostReads => {
                    let bytes = read(&mut stream).unwrap();
                    for byte in &bytes {
                        prop_assert_eq!(Some(*byte), to_host.pop_front());
                    }
                    host_read += bytes.len();
                }
                Step::GuestSends(len) => {
                    let room = WINDOW - (guest.sent - guest.confirmed);
                    let bytes = some(len.min(room) as usize);
                    to_host.extend(&bytes);
                    guest.sent += bytes.len() as u32;
                    sockets.send(&Packet { credit: guest.credit(), ..Packet::data(1000, PORT, &bytes) });
                }
                Step::GuestReceives => {
                    let packets = sockets.receive();
                    guest.take(packets);
                }
                Step::GuestConsumes(len) => {
                    guest.consumed += len.min(guest.received - guest.consumed);
                    sockets.send(&Packet { credit: guest.credit(), ..Packet::new(1000, PORT, CREDIT_UPDATE) });
                }
            }
            sockets.machine.settle();
        }
        prop_assert!(guest.stream == to_guest, "{} of {} bytes", guest.stream.len(), to_guest.len());
        prop_assert_eq!(host_read, guest.sent as usize);
        prop_assert_eq!(sockets.count("violations"), 0);
    }
}
