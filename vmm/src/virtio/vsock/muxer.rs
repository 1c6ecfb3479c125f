//! The handler of a socket device: passes packets between the queues and the connections.
//!
//! Connections that may have a packet for the guest wait in a queue and take turns. No packet is made before the guest has
//! a buffer for it. RSTs without a connection are the only packets that are kept: while too many wait, the device takes no
//! packet of the guest (virtio 1.2 §5.10.6.4). The sockets are watched edge-triggered, and read until they are empty.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Fate, Ports, Produced};
use super::counters::add;
use super::credit::WINDOW;
use super::host::{Asked, Greeting, HostSocket};
use super::packet::{HEADER_BYTES, HOST_CID, Header, Operation, STREAM};
use super::{RECEIVE, TRANSMIT, Vsock};
use crate::error::{Context, Result};
use crate::virtio::chain::Chain;
use crate::virtio::handler::{Handler, Service, Token};
use crate::virtio::lane::Lane;
use crate::virtio::live_queue::LiveQueue;
use crate::virtio::queue::QueueIndex;

/// Connections of a device, with those that have not asked for a port.
pub(super) const MOST_CONNECTIONS: usize = 1024;
/// RSTs that wait for a buffer before the device stops to take packets.
const MOST_RESETS: usize = 128;
/// The first port of the host that connections of the host come from.
const FIRST_PORT: u32 = 1 << 30;
const LISTENER: Token = Token(0);

/// A socket of the host.
enum Peer {
    Greeting(Greeting),
    Connection(Box<Connection>),
}

/// The handler.
pub(super) struct Muxer {
    vsock: Arc<Vsock>,
    host: HostSocket,
    peers: HashMap<u32, Peer>,
    by_ports: HashMap<Ports, u32>,
    next_token: u32,
    next_port: u32,
    /// Connections that may have packets, each once.
    waiting: VecDeque<u32>,
    resets: VecDeque<Header>,
    buffer: Vec<u8>,
    /// The number of the driver's resets when the connections began.
    epoch: u64,
    /// Whether the host refused the last accept(2).
    has_accept_failed: bool,
}

impl Muxer {
    pub(super) fn new(vsock: Arc<Vsock>, host: HostSocket) -> Self {
        Self {
            vsock,
            host,
            peers: HashMap::new(),
            by_ports: HashMap::new(),
            next_token: 1,
            next_port: FIRST_PORT,
            waiting: VecDeque::new(),
            resets: VecDeque::new(),
            buffer: vec![0; WINDOW as usize],
            epoch: 0,
            has_accept_failed: false,
        }
    }

    /// Ends the connections if the driver has reset the device since they began.
    fn follow_reset(&mut self) {
        let resets = self.vsock.resets.load(Ordering::Acquire);
        if std::mem::replace(&mut self.epoch, resets) != resets {
            self.peers.retain(|_, peer| matches!(peer, Peer::Greeting(_)));
            self.by_ports.clear();
            self.waiting.clear();
            self.resets.clear();
            self.count_connections();
        }
    }

    fn count_connections(&self) {
        self.vsock.counters.connections.store(self.peers.len() as u64, Ordering::Relaxed);
    }

    /// Moves packets in both directions until neither goes on.
    fn serve(&mut self, lane: &mut Lane) {
        loop {
            self.transmit(lane);
            let is_blocked = self.resets.len() >= MOST_RESETS;
            if let Some(queue) = lane.queue(RECEIVE) {
                self.receive(queue);
            }
            if !is_blocked || self.resets.len() >= MOST_RESETS {
                return;
            }
        }
    }

    /// Takes packets of the guest.
    fn transmit(&mut self, lane: &mut Lane) {
        while self.resets.len() < MOST_RESETS {
            let Some(queue) = lane.queue(TRANSMIT) else { return };
            let Some(chain) = queue.pop() else { return };
            let packet = self.read(queue, &chain);
            queue.complete(chain, 0);
            match packet {
                Some((header, len)) => self.packet(lane, &header, len),
                None => {
                    add(&self.vsock.counters.violations, 1);
                }
            }
        }
    }

    /// Reads a packet. Its data is in the buffer. `None` if it has no header. Data that is missing, or more than a window, is
    /// not read: the length of the data and that of the header differ then.
    fn read(&mut self, queue: &LiveQueue, chain: &Chain) -> Option<(Header, usize)> {
        let mut bytes = [0; HEADER_BYTES];
        if chain.fault().is_some() || chain.readable().read(queue.memory(), 0, &mut bytes).is_err() {
            if chain.fault().is_none() {
                queue.count_invalid();
            }
            return None;
        }
        let header = Header::parse(&bytes);
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        let is_data = header.operation == Operation::Data as u16;
        let read = self.buffer.get_mut(..len).filter(|_| is_data).map(|data| {
            let read = chain.readable().read(queue.memory(), HEADER_BYTES as u64, data);
            read.map_or(0, |()| data.len())
        });
        if is_data && read != Some(len) {
            queue.count_invalid();
        }
        Some((header, read.unwrap_or(0)))
    }

    /// Serves a packet with this many bytes of data in the buffer.
    fn packet(&mut self, lane: &mut Lane, header: &Header, len: usize) {
        let is_ours = header.source_cid == self.vsock.cid.get()
            && header.destination_cid == HOST_CID
            && header.kind == STREAM;
        if !is_ours {
            return self.refuse(header, Fate::Violated);
        }
        let ports = Ports { guest: header.source_port, host: header.destination_port };
        let known = self.by_ports.get(&ports).copied();
        let Some(token) = known else {
            return match Operation::from_number(header.operation) {
                Some(Operation::Request) => self.request(lane, ports, header),
                // The last packets of a connection that the host has reset are no fault of the guest.
                Some(_) => self.refuse(header, Fate::Reset),
                None => self.refuse(header, Fate::Violated),
            };
        };
        let Some(Peer::Connection(connection)) = self.peers.get_mut(&token) else { return };
        let is_whole = header.operation != Operation::Data as u16
            || u32::try_from(len).is_ok_and(|len| len == header.len);
        let data = self.buffer.get(..len).unwrap_or_default();
        let fate = if is_whole { connection.receive(header, data) } else { Fate::Violated };
        add(&self.vsock.counters.to_host, if fate == Fate::Open { len as u64 } else { 0 });
        self.settle(token, fate);
    }

    /// Answers a packet without a connection.
    fn refuse(&mut self, header: &Header, fate: Fate) {
        if fate == Fate::Violated {
            add(&self.vsock.counters.violations, 1);
        }
        // An RST is never answered.
        if header.operation != Operation::Reset as u16 {
            self.reset(Header {
                source_cid: header.destination_cid,
                destination_cid: self.vsock.cid.get(),
                source_port: header.destination_port,
                destination_port: header.source_port,
                kind: header.kind,
                ..Header::default()
            });
        }
    }

    fn reset(&mut self, header: Header) {
        add(&self.vsock.counters.resets, 1);
        self.resets.push_back(Header { operation: Operation::Reset as u16, ..header });
    }

    /// The guest asks for a port of the host.
    fn request(&mut self, lane: &Lane, ports: Ports, header: &Header) {
        let has_room = self.peers.len() < MOST_CONNECTIONS;
        let socket = if has_room { self.host.connect(ports.host) } else { None };
        let Some(socket) = socket else {
            add(&self.vsock.counters.refused, 1);
            return self.refuse(header, Fate::Reset);
        };
        let connection = Connection::accepted(socket, ports, self.vsock.cid.get(), header);
        let Some(token) = self.watch(lane, connection.socket()) else {
            return self.refuse(header, Fate::Reset);
        };
        add(&self.vsock.counters.opened_by_guest, 1);
        self.insert(token, connection);
    }

    fn insert(&mut self, token: u32, connection: Connection) {
        self.by_ports.insert(connection.ports(), token);
        self.peers.insert(token, Peer::Connection(Box::new(connection)));
        self.count_connections();
        self.settle(token, Fate::Open);
    }

    /// Watches a socket, under a new token.
    fn watch(&mut self, lane: &Lane, socket: &OwnedFd) -> Option<u32> {
        while self.next_token == LISTENER.0 || self.peers.contains_key(&self.next_token) {
            self.next_token = self.next_token.wrapping_add(1);
        }
        let token = self.next_token;
        self.next_token = token.wrapping_add(1);
        let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        lane.watch(socket, Token(token), events).ok().map(|()| token)
    }

    /// Does what follows from an event of a connection.
    fn settle(&mut self, token: u32, fate: Fate) {
        let Some(Peer::Connection(connection)) = self.peers.get_mut(&token) else { return };
        if fate == Fate::Open {
            if connection.has_packets() && !std::mem::replace(&mut connection.is_queued, true) {
                self.waiting.push_back(token);
            }
            return;
        }
        let ports = connection.ports();
        self.peers.remove(&token);
        self.by_ports.remove(&ports);
        self.waiting.retain(|waiting| *waiting != token);
        self.count_connections();
        if fate == Fate::Violated {
            add(&self.vsock.counters.violations, 1);
        }
        if fate != Fate::Closed {
            self.reset(Header {
                source_cid: HOST_CID,
                destination_cid: self.vsock.cid.get(),
                source_port: ports.host,
                destination_port: ports.guest,
                kind: STREAM,
                ..Header::default()
            });
        }
    }

    /// Gives packets to the guest, while there are any and it has buffers for them.
    fn receive(&mut self, queue: &mut LiveQueue) {
        while !(self.resets.is_empty() && self.waiting.is_empty()) {
            let Some(chain) = queue.pop() else { return };
            let room = chain.writable().len().checked_sub(HEADER_BYTES as u64);
            let Some(room) = room.filter(|room| *room > 0 && chain.fault().is_none()) else {
                if chain.fault().is_none() {
                    queue.count_invalid();
                }
                queue.complete(chain, 0);
                continue;
            };
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let Some((header, token)) = self.next_packet(room) else { return queue.put_back(chain) };
            if self.write(queue, &chain, &header) {
                let written = header.len.saturating_add(HEADER_BYTES as u32);
                add(&self.vsock.counters.to_guest, header.len.into());
                queue.complete(chain, written);
                continue;
            }
            // The packet is lost, and its connection with it.
            queue.count_invalid();
            queue.complete(chain, 0);
            if let Some(token) = token {
                self.settle(token, Fate::Violated);
            }
        }
    }

    fn write(&self, queue: &LiveQueue, chain: &Chain, header: &Header) -> bool {
        let data = self.buffer.get(..header.len as usize).unwrap_or_default();
        let (memory, buffers) = (queue.memory(), chain.writable());
        let is_written = buffers.write(memory, 0, &header.to_bytes()).is_ok();
        is_written && buffers.write(memory, HEADER_BYTES as u64, data).is_ok()
    }

    /// The next packet, with the connection that it belongs to. Its data is in the buffer.
    fn next_packet(&mut self, room: usize) -> Option<(Header, Option<u32>)> {
        loop {
            if let Some(header) = self.resets.pop_front() {
                return Some((header, None));
            }
            let token = self.waiting.pop_front()?;
            let Some(Peer::Connection(connection)) = self.peers.get_mut(&token) else { continue };
            connection.is_queued = false;
            let room = room.min(self.buffer.len());
            let (buffer, _) = self.buffer.split_at_mut(room);
            let (produced, fate) = match connection.produce(buffer) {
                Produced::Packet(header) => (Some(header), Fate::Open),
                Produced::Nothing => (None, Fate::Open),
                Produced::Failed => (None, Fate::Reset),
            };
            self.settle(token, fate);
            if let Some(header) = produced {
                return Some((header, Some(token)));
            }
        }
    }

    /// Accepts the programs that have connected to the socket. If the host refuses, for example because the process has no
    /// descriptor left, the programs wait until a retry: an edge-triggered socket gives no second event for them.
    fn accept(&mut self, lane: &mut Lane) {
        loop {
            let socket = match self.host.accept() {
                Ok(Some(socket)) => socket,
                Ok(None) => break,
                Err(error) => {
                    if !std::mem::replace(&mut self.has_accept_failed, true) {
                        tracing::warn!("programs that connect to the socket of --vsock wait: {error}");
                    }
                    lane.retry_later();
                    return;
                }
            };
            // It sees that its connection is closed.
            if self.peers.len() >= MOST_CONNECTIONS {
                add(&self.vsock.counters.refused, 1);
                continue;
            }
            if let Some(token) = self.watch(lane, &socket) {
                self.peers.insert(token, Peer::Greeting(Greeting::new(socket)));
                self.greet(token);
            }
            self.count_connections();
        }
        self.has_accept_failed = false;
    }

    /// A program may have asked for a port.
    fn greet(&mut self, token: u32) {
        let Some(Peer::Greeting(greeting)) = self.peers.get_mut(&token) else { return };
        let asked = greeting.read();
        if asked == Asked::Nothing {
            return;
        }
        let Some(Peer::Greeting(greeting)) = self.peers.remove(&token) else { return };
        if let Asked::Port(guest) = asked {
            let ports = self.free_ports(guest);
            add(&self.vsock.counters.opened_by_host, 1);
            self.insert(token, Connection::requested(greeting.socket, ports, self.vsock.cid.get()));
        }
        self.count_connections();
    }

    /// Ports for a connection of the host, which no other has. There are fewer connections than ports.
    fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports { guest, host: self.next_port };
            self.next_port = self.next_port.wrapping_add(1).max(FIRST_PORT);
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }
}

impl Handler for Muxer {
    fn init(&mut self, lane: &mut Lane) -> Result<()> {
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        lane.watch(self.host.listener(), LISTENER, events).context("watching the socket of --vsock")
    }

    fn start(&mut self, _lane: &mut Lane, _index: QueueIndex) -> Result<Service> {
        self.follow_reset();
        Ok(Service::Lane)
    }

    fn stop(&mut self, _lane: &mut Lane, _index: QueueIndex) {
        self.follow_reset();
    }

    fn queue_ready(&mut self, lane: &mut Lane, index: QueueIndex) {
        if index == RECEIVE || index == TRANSMIT {
            self.serve(lane);
        }
    }

    fn descriptor_ready(&mut self, lane: &mut Lane, token: Token, ready: EventSet) {
        if token == LISTENER {
            self.accept(lane);
        } else if let Some(Peer::Connection(connection)) = self.peers.get_mut(&token.0) {
            connection.readable(ready.contains(EventSet::HANG_UP));
            let fate = if ready.contains(EventSet::OUT) { connection.writable() } else { Fate::Open };
            self.settle(token.0, fate);
        } else {
            self.greet(token.0);
        }
        self.serve(lane);
    }

    fn retry(&mut self, lane: &mut Lane) {
        self.accept(lane);
        self.serve(lane);
    }
}
