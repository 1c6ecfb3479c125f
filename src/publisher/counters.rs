//! What a routing table holds, and what it has cost. Plain numbers. No lock.

/// What the routing table holds, and what it has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RouteCounters {
    /// Messages that the VM has room for.
    pub capacity: usize,
    /// Messages that are published.
    pub published: usize,
    /// Published messages that some vector uses.
    pub in_use: usize,
    /// Commits that the hypervisor took.
    pub commits: u64,
    /// Messages in the tables of all commits, added up.
    pub handed_over: u64,
    /// Times that a wanted message was published already.
    pub hits: u64,
    /// Unused messages whose room another message has taken.
    pub evictions: u64,
    /// The most commits that ended while one caller waited for its messages, the one that carried them included. Two if a commit
    /// was under way when the caller came, and never more.
    pub longest_wait: u64,
}
