//! A transmit queue in the VMM (virtio 1.2 §5.1.6.2): packets go from the guest's buffers into the tap without a copy.
//!
//! The tap checks the header's fields. A packet that it refuses is dropped and counted. A packet for which it has no room
//! waits, and with it those behind it, until the tap is writable.

use std::fs::File;
use std::io;

use super::counters::Direction;
use super::segments::{self, Segments};
use super::{LARGEST_PACKET, PER_BATCH, Progress};
use crate::tap::HEADER_BYTES;
use crate::virtio::chain::Chain;
use crate::virtio::live_queue::LiveQueue;

/// The state of a transmit queue.
pub(super) struct Transmitter {
    segments: Segments,
    /// A packet that waits for room.
    waiting: Option<Chain>,
}

impl Transmitter {
    pub(super) fn new() -> Self {
        Self { segments: Segments::new(), waiting: None }
    }

    /// The queue stops: gives back the packet that waits.
    pub(super) fn stop(&mut self, queue: &mut LiveQueue) {
        if let Some(chain) = self.waiting.take() {
            queue.put_back(chain);
        }
    }

    /// Sends some packets.
    pub(super) fn transmit(&mut self, queue: &mut LiveQueue, file: &File, counters: &Direction) -> Progress {
        for _ in 0..PER_BATCH {
            let Some(chain) = self.waiting.take().or_else(|| queue.pop()) else { return Progress::Blocked };
            if !self.is_packet(&chain, queue) {
                if chain.fault().is_none() {
                    queue.count_invalid();
                }
                queue.complete(chain, 0);
                continue;
            }
            loop {
                match self.segments.write(file) {
                    Ok(_) => counters.passed(self.segments.bytes()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.waiting = Some(chain);
                        return Progress::Blocked;
                    }
                    Err(_) => counters.dropped(),
                }
                queue.complete(chain, 0);
                break;
            }
        }
        Progress::More
    }

    /// Whether the chain is a packet, whose segments are taken then.
    fn is_packet(&mut self, chain: &Chain, queue: &LiveQueue) -> bool {
        self.segments.clear(queue.memory());
        let has_packet = chain.fault().is_none()
            && chain.writable().is_empty()
            && self.segments.push(chain.readable()).is_ok();
        let len = self.segments.bytes();
        has_packet
            && (HEADER_BYTES as u64..=LARGEST_PACKET).contains(&len)
            && self.segments.len() <= segments::MOST
    }
}
