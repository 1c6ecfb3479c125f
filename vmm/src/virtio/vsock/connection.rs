//! A stream between a port of the guest and a socket of the host.
//!
//! Owns the socket, the bytes that the host has not taken, and what the guest is still to be told. Everything owed is a
//! flag or a counter: a guest that takes no packets costs no memory.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::credit::{Inbound, Outbound};
use super::packet::{Ended, HOST_CID, Header, Operation, STREAM};

/// The ports that name a connection: one guest, and one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// What becomes of a connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Open,
    /// It ends, and the guest knows.
    Closed,
    /// It ends, and the guest gets RST.
    Reset,
    /// It ends because the guest has broken a rule, and the guest gets RST.
    Violated,
}

/// A packet for the guest.
#[derive(Debug)]
pub(super) enum Produced {
    /// A header, whose data is in the buffer.
    Packet(Header),
    /// There is none.
    Nothing,
    /// The host's socket has failed.
    Failed,
}

/// What the guest is still to be told.
#[derive(Debug, Default)]
struct Owed {
    /// REQUEST or RESPONSE.
    opening: Option<Operation>,
    shutdown: bool,
    credit_update: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    ports: Ports,
    guest_cid: u64,
    /// Both sides have agreed.
    is_open: bool,
    inbound: Inbound,
    outbound: Outbound,
    /// Bytes of the guest that the host has not taken.
    backlog: VecDeque<u8>,
    owed: Owed,
    /// The socket may have bytes for the guest.
    is_readable: bool,
    /// The host program has closed both directions.
    is_hung_up: bool,
    /// The host program has been told that the guest sends no more.
    is_write_shut: bool,
    asked_for_credit: bool,
    host_ended: Ended,
    guest_ended: Ended,
    /// It is in the queue of those with packets.
    pub(super) is_queued: bool,
}

impl Connection {
    /// A connection that the guest has asked for, by this packet.
    pub(super) fn accepted(socket: OwnedFd, ports: Ports, guest_cid: u64, request: &Header) -> Self {
        let mut connection = Self::new(socket, ports, guest_cid, Operation::Response);
        connection.is_open = true;
        // Nothing was sent, so a guest that says that bytes have arrived cannot be believed. Its next packet shows that.
        let _ = connection.outbound.update(request.buf_alloc, request.fwd_cnt);
        connection
    }

    /// A connection that the host asks for.
    pub(super) fn requested(socket: OwnedFd, ports: Ports, guest_cid: u64) -> Self {
        Self::new(socket, ports, guest_cid, Operation::Request)
    }

    fn new(socket: OwnedFd, ports: Ports, guest_cid: u64, opening: Operation) -> Self {
        Self {
            socket,
            ports,
            guest_cid,
            is_open: false,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            backlog: VecDeque::new(),
            owed: Owed { opening: Some(opening), ..Owed::default() },
            is_readable: true,
            is_hung_up: false,
            is_write_shut: false,
            asked_for_credit: false,
            host_ended: Ended::new(),
            guest_ended: Ended::new(),
            is_queued: false,
        }
    }

    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether [`Connection::produce`] may have a packet.
    pub(super) fn has_packets(&self) -> bool {
        let Owed { opening, shutdown, credit_update } = &self.owed;
        opening.is_some() || *shutdown || *credit_update || self.inbound.is_update_due() || self.may_read()
    }

    fn may_read(&self) -> bool {
        let is_wanted = self.is_open && !self.host_ended.send() && !self.guest_ended.receive();
        is_wanted && self.is_readable && (self.outbound.available() > 0 || !self.asked_for_credit)
    }

    /// A packet of the guest. `data` has as many bytes as its header says.
    pub(super) fn receive(&mut self, header: &Header, data: &[u8]) -> Fate {
        let Some(operation) = Operation::from_number(header.operation) else { return Fate::Violated };
        if operation == Operation::Reset {
            return Fate::Closed;
        }
        if self.outbound.update(header.buf_alloc, header.fwd_cnt).is_err() {
            return Fate::Violated;
        }
        self.asked_for_credit = false;
        match operation {
            Operation::Response if !self.is_open && self.owed.opening.is_none() => self.greet(),
            _ if !self.is_open => Fate::Violated,
            Operation::Data => self.accept(data),
            Operation::CreditUpdate => Fate::Open,
            Operation::CreditRequest => {
                self.owed.credit_update = true;
                Fate::Open
            }
            Operation::Shutdown => {
                let flags = Ended::from_bits(header.flags);
                let ended = self.guest_ended;
                self.guest_ended = ended
                    .with_receive(ended.receive() || flags.receive())
                    .with_send(ended.send() || flags.send());
                if self.guest_ended.receive() {
                    // The host program learns of it when it writes.
                    let _ = shutdown(&self.socket, Shutdown::Read);
                }
                self.flush()
            }
            Operation::Request | Operation::Response | Operation::Reset => Fate::Violated,
        }
    }

    /// Tells the host program that the guest has agreed.
    fn greet(&mut self) -> Fate {
        self.is_open = true;
        let line = format!("OK {}\n", self.ports.host);
        // Nothing else was written, so the socket has room.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let written = send(&self.socket, line.as_bytes(), flags);
        if written == Ok(line.len()) { Fate::Open } else { Fate::Reset }
    }

    fn accept(&mut self, data: &[u8]) -> Fate {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if self.guest_ended.send() || self.inbound.accept(len).is_err() {
            return Fate::Violated;
        }
        self.backlog.extend(data);
        self.flush()
    }

    /// Writes as much to the host as it takes.
    fn flush(&mut self) -> Fate {
        while !self.backlog.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(&self.socket, self.backlog.as_slices().0, flags) {
                Ok(count) => {
                    self.backlog.drain(..count.min(self.backlog.len()));
                    self.inbound.forward(u32::try_from(count).unwrap_or(u32::MAX));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Fate::Open,
                Err(_) => return Fate::Reset,
            }
        }
        self.backlog = VecDeque::new();
        if self.guest_ended.send() && self.guest_ended.receive() {
            return Fate::Reset;
        }
        // Each call would be an event of the socket, and this one's own.
        if self.guest_ended.send() && !std::mem::replace(&mut self.is_write_shut, true) {
            // It fails if the host program has closed, which a read shows.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
        Fate::Open
    }

    /// The socket can be read. `is_hung_up` if both of its directions are closed.
    pub(super) fn readable(&mut self, is_hung_up: bool) {
        self.is_readable = true;
        if is_hung_up && !self.is_hung_up {
            self.is_hung_up = true;
            if self.host_ended.send() {
                self.end_host();
            }
        }
    }

    /// The socket can be written.
    pub(super) fn writable(&mut self) -> Fate {
        self.flush()
    }

    fn end_host(&mut self) {
        self.host_ended = Ended::new().with_send(true).with_receive(self.is_hung_up);
        self.owed.shutdown = true;
    }

    /// The next packet for the guest, with data of at most `buffer.len()` bytes.
    pub(super) fn produce(&mut self, buffer: &mut [u8]) -> Produced {
        if let Some(operation) = self.owed.opening.take() {
            return Produced::Packet(self.header(operation, 0, 0));
        }
        if self.may_read() {
            let available = self.outbound.available();
            if available == 0 {
                self.asked_for_credit = true;
                return Produced::Packet(self.header(Operation::CreditRequest, 0, 0));
            }
            let room = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
            let (part, _) = buffer.split_at_mut(room);
            match recv(&self.socket, part, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.end_host(),
                Ok((_, count)) => {
                    let len = u32::try_from(count).unwrap_or(u32::MAX);
                    self.outbound.send(len);
                    return Produced::Packet(self.header(Operation::Data, len, 0));
                }
                Err(Errno::AGAIN) => self.is_readable = false,
                // The next attempt follows at once.
                Err(Errno::INTR) => {}
                Err(_) => return Produced::Failed,
            }
        }
        if std::mem::take(&mut self.owed.shutdown) {
            return Produced::Packet(self.header(Operation::Shutdown, 0, self.host_ended.into_bits()));
        }
        if self.owed.credit_update || self.inbound.is_update_due() {
            return Produced::Packet(self.header(Operation::CreditUpdate, 0, 0));
        }
        Produced::Nothing
    }

    /// Each packet tells the guest of its credit.
    fn header(&mut self, operation: Operation, len: u32, flags: u32) -> Header {
        self.owed.credit_update = false;
        let (buf_alloc, fwd_cnt) = self.inbound.announce();
        Header {
            source_cid: HOST_CID,
            destination_cid: self.guest_cid,
            source_port: self.ports.host,
            destination_port: self.ports.guest,
            len,
            kind: STREAM,
            operation: operation as u16,
            flags,
            buf_alloc,
            fwd_cnt,
        }
    }
}
