//! What the report says of the connections.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

/// Counters of a device. Only its lane writes them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Connections, and programs that have not asked for a port.
    pub(super) connections: AtomicU64,
    pub(super) opened_by_guest: AtomicU64,
    pub(super) opened_by_host: AtomicU64,
    /// Connections for which there was no listener or no room.
    pub(super) refused: AtomicU64,
    /// RSTs that were sent.
    pub(super) resets: AtomicU64,
    /// Packets of the guest that break a rule.
    pub(super) violations: AtomicU64,
    pub(super) to_guest: AtomicU64,
    pub(super) to_host: AtomicU64,
}

impl Counters {
    pub(super) fn report(&self) -> Map<String, Value> {
        [
            ("connections", &self.connections),
            ("opened_by_guest", &self.opened_by_guest),
            ("opened_by_host", &self.opened_by_host),
            ("refused", &self.refused),
            ("resets", &self.resets),
            ("violations", &self.violations),
            ("to_guest_bytes", &self.to_guest),
            ("to_host_bytes", &self.to_host),
        ]
        .map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed).into()))
        .into_iter()
        .collect()
    }
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
