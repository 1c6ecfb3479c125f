//! Counters of a pair of queues, for the report.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// Packets of one direction.
#[derive(Debug, Default)]
pub(super) struct Direction {
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

impl Direction {
    /// Counts a packet of this length, with its virtio header.
    pub(super) fn passed(&self, bytes: u64) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a packet that went nowhere.
    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counters of a pair of queues.
#[derive(Debug, Default)]
pub(super) struct PairCounters {
    /// From the tap to the guest. A packet is dropped if it is larger than the guest's buffers.
    pub(super) received: Direction,
    /// From the guest to the tap. A packet is dropped if the tap refuses it.
    pub(super) sent: Direction,
}

impl PairCounters {
    pub(super) fn report(&self) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "received_packets": count(&self.received.packets),
            "received_bytes": count(&self.received.bytes),
            "received_dropped": count(&self.received.dropped),
            "sent_packets": count(&self.sent.packets),
            "sent_bytes": count(&self.sent.bytes),
            "sent_dropped": count(&self.sent.dropped),
        })
    }
}
