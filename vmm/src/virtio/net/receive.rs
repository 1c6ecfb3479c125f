//! A receive queue in the VMM (virtio 1.2 §5.1.6.3, §5.1.6.4): packets go from the tap into the guest's buffers without a
//! copy.
//!
//! The length of a packet is known only after it was read, so the receiver holds a window of chains: enough for the largest
//! packet if the driver has offered as many. A packet that is larger ends in `rest`, a buffer of the VMM. It is copied into
//! the next chains, or dropped if there cannot be any. Invariant: `segments` are those of the `posted` chains, in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io;

use super::counters::Direction;
use super::features::{self, GUEST_CSUM, MRG_RXBUF};
use super::segments::{self, Segments};
use super::{LARGEST_PACKET, PER_BATCH, Progress};
use crate::tap::HEADER_BYTES;
use crate::virtio::chain::Chain;
use crate::virtio::live_queue::LiveQueue;

/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: u64 = 10;
/// Offset of `flags` in the header.
const FLAGS: u64 = 0;
/// Ethernet header with a VLAN tag, in front of the MTU.
const ETHERNET_BYTES: u64 = 18;
/// MTU of a link that has not said one.
const DEFAULT_MTU: u16 = 1500;

/// Whether a packet may be spread over several chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    OneChain,
    SeveralChains,
}

/// A chain of the window.
struct Posted {
    chain: Chain,
    segments: usize,
    bytes: u64,
}

/// A packet that was read.
#[derive(Clone, Copy)]
struct Packet {
    bytes: u64,
    /// Bytes in the window. The others are in `rest`.
    in_window: u64,
}

/// The state of a receive queue.
pub(super) struct Receiver {
    spread: Spread,
    features: u64,
    /// Bytes that the window should have.
    window: u64,
    posted: VecDeque<Posted>,
    segments: Segments,
    rest: Box<[u8]>,
    /// A packet that waits for further chains.
    waiting: Option<Packet>,
    /// Whether a chain behind a posted one was completed.
    has_gap: bool,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            spread: Spread::OneChain,
            features: 0,
            window: 0,
            posted: VecDeque::new(),
            segments: Segments::new(),
            rest: vec![0; LARGEST_PACKET as usize].into_boxed_slice(),
            waiting: None,
            has_gap: false,
        }
    }

    /// The queue has become live.
    pub(super) fn start(&mut self, queue: &LiveQueue, features: u64, mtu: Option<u16>) {
        let largest = u64::from(mtu.unwrap_or(DEFAULT_MTU)).saturating_add(ETHERNET_BYTES);
        let largest = largest.saturating_add(HEADER_BYTES as u64);
        self.window = if features::receives_segments(features) { LARGEST_PACKET } else { largest };
        self.spread = if features & MRG_RXBUF == 0 { Spread::OneChain } else { Spread::SeveralChains };
        self.features = features;
        self.segments.clear(queue.memory());
    }

    /// The queue stops: gives back all chains. A packet that waits for chains is lost.
    pub(super) fn stop(&mut self, queue: &mut LiveQueue, counters: &Direction) {
        if self.waiting.take().is_some() {
            counters.dropped();
        }
        while let Some(posted) = self.posted.pop_back() {
            // A chain can be put back only if all later ones were.
            if self.has_gap { queue.complete(posted.chain, 0) } else { queue.put_back(posted.chain) }
        }
        self.segments.clear(queue.memory());
        self.has_gap = false;
    }

    /// Receives some packets.
    pub(super) fn receive(&mut self, queue: &mut LiveQueue, file: &File, counters: &Direction) -> Progress {
        for _ in 0..PER_BATCH {
            self.fill(queue);
            if self.posted.is_empty() {
                return Progress::Blocked;
            }
            let packet = match self.waiting.take() {
                Some(packet) => packet,
                None => match self.read(file) {
                    Ok(packet) if packet.bytes > packet.in_window => {
                        self.waiting = Some(packet);
                        continue;
                    }
                    Ok(packet) => packet,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        if error.kind() != io::ErrorKind::WouldBlock {
                            tracing::debug!("reading a packet: {error}");
                        }
                        return Progress::Blocked;
                    }
                },
            };
            if packet.bytes < HEADER_BYTES as u64 {
                counters.dropped();
            } else if packet.bytes <= self.room() {
                self.deliver(packet, queue);
                counters.passed(packet.bytes);
            } else if self.can_grow(queue) {
                self.waiting = Some(packet);
                return Progress::Blocked;
            } else {
                counters.dropped();
            }
        }
        Progress::More
    }

    /// Bytes that the next packet may have.
    fn room(&self) -> u64 {
        self.segments.bytes()
    }

    /// Whether the driver can offer further chains for the next packet.
    fn can_grow(&self, queue: &LiveQueue) -> bool {
        self.spread == Spread::SeveralChains
            && queue.in_flight() < queue.size()
            && self.segments.len() < segments::MOST / 2
    }

    /// Takes chains until the window is large enough. Invalid ones go back at once.
    fn fill(&mut self, queue: &mut LiveQueue) {
        loop {
            let wanted = self.waiting.map_or(self.window, |packet| packet.bytes.max(self.window));
            let is_full = match self.spread {
                Spread::OneChain => !self.posted.is_empty(),
                Spread::SeveralChains => self.room() >= wanted || self.segments.len() >= segments::MOST / 2,
            };
            if is_full {
                return;
            }
            let Some(chain) = queue.pop() else { return };
            let bytes = chain.writable().len();
            let is_valid = chain.readable().is_empty() && bytes >= HEADER_BYTES as u64;
            let added = self.segments.push(chain.writable()).ok().filter(|_| chain.fault().is_none());
            match added {
                Some(segments) if is_valid => {
                    self.posted.push_back(Posted { chain, segments, bytes });
                }
                other => {
                    self.segments.remove_last(other.unwrap_or(0));
                    if chain.fault().is_none() {
                        queue.count_invalid();
                    }
                    self.has_gap |= !self.posted.is_empty();
                    queue.complete(chain, 0);
                }
            }
        }
    }

    fn read(&mut self, file: &File) -> io::Result<Packet> {
        let in_window = self.room();
        let bytes = self.segments.read(file, &mut self.rest)?;
        Ok(Packet { bytes, in_window })
    }

    /// Completes the chains that the packet fills.
    fn deliver(&mut self, packet: Packet, queue: &mut LiveQueue) {
        self.copy_rest(packet, queue);
        let mut left = packet.bytes;
        let enough = self.posted.iter().scan(0u64, |sum, posted| {
            let is_needed = *sum < packet.bytes;
            *sum = sum.saturating_add(posted.bytes);
            is_needed.then_some(())
        });
        let count = enough.count();
        if let Some(first) = self.posted.front() {
            let buffers = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
            let memory = queue.memory();
            // The header is in the first chain, which is in RAM.
            let _ = first.chain.writable().write(memory, NUM_BUFFERS, &buffers);
            if self.features & GUEST_CSUM == 0 {
                // Without it, flags are 0 (§5.1.6.4.1). The packet has its checksum.
                let _ = first.chain.writable().write(memory, FLAGS, &[0]);
            }
        }
        for posted in self.posted.drain(..count) {
            let written = left.min(posted.bytes);
            left = left.saturating_sub(written);
            self.segments.remove_first(posted.segments);
            queue.complete(posted.chain, u32::try_from(written).unwrap_or(u32::MAX));
        }
        self.has_gap &= !self.posted.is_empty();
    }

    /// Copies what is in `rest` into the window.
    fn copy_rest(&self, packet: Packet, queue: &LiveQueue) {
        let in_rest = packet.bytes.saturating_sub(packet.in_window);
        let mut rest = usize::try_from(in_rest).ok().and_then(|len| self.rest.get(..len)).unwrap_or_default();
        let mut start = 0u64;
        for posted in &self.posted {
            let end = start.saturating_add(posted.bytes);
            if end > packet.in_window && !rest.is_empty() {
                let offset = packet.in_window.saturating_sub(start);
                let len = usize::try_from(posted.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
                let (part, after) = rest.split_at(len.min(rest.len()));
                // The chain is in RAM, and has room for the part.
                let _ = posted.chain.writable().write(queue.memory(), offset, part);
                rest = after;
            }
            start = end;
        }
    }
}
