//! Counters of a publisher's routing table. Plain numbers. No lock.

/// The contents of the routing table, and the cost of keeping it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteCounters {
    /// Messages that the table has room for.
    pub capacity: usize,
    /// Messages that are published.
    pub published: usize,
    /// Published messages that at least one vector uses.
    pub in_use: usize,
    /// Commits that the hypervisor accepted.
    pub commits: u64,
    /// Messages in the tables of all commits, summed.
    pub handed_over: u64,
    /// Requested messages that were already published.
    pub hits: u64,
    /// Unused messages that were replaced by another message.
    pub evictions: u64,
    /// The most commits that ended while one caller waited for its messages, including the commit that
    /// carried them. At most 2: the commit that was under way when the caller arrived, and the next one.
    pub longest_wait: u64,
}
