//! A view of a domain: every vector that is not plainly unused, and what was done so far.

use super::error::{Cause, DomainError};
use super::slot::Slot;
use crate::budget::BudgetReport;
use crate::counter::Increment;
use crate::delivery::Vector;
use crate::interrupt::Target;
use crate::message::MsiMessage;
use crate::refusal::Refusal;
use crate::router::Gsi;
use crate::signalled::signalled;

/// What a domain has done and refused since it was made. They only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counters {
    /// Host vectors requested.
    pub binds: u64,
    /// Host vectors given back one by one.
    pub unbinds: u64,
    /// Vectors that got an irqfd: they went live, or were refused by the device's side and then by the kernel, which kept
    /// the irqfd ([`State::Detaching`]).
    pub attaches: u64,
    /// Vectors that lost it. So many as the counters differ by have one now.
    pub detaches: u64,
    /// Times the whole capability was turned on in the host.
    pub opens: u64,
    /// Times it was turned off.
    pub closes: u64,
    /// Interrupts that userspace delivered.
    pub relayed: u64,
    /// Interrupts that userspace sent and that no interrupt controller accepted ([`Signalled::NotAccepted`](crate::router::Signalled::NotAccepted)): the guest's
    /// mistake. They are dropped, as hardware drops them.
    pub unaccepted: u64,
    /// Unmasked vectors whose message is no interrupt: the guest's mistake.
    pub invalid_messages: u64,
    /// Times that an unmasked vector was looked at and a remapping unit did not let its message through.
    pub remapping_faults: u64,
    /// Times that an unmasked vector was looked at that wants a cookie, of which the device has none
    /// ([`Capabilities::cookies`](crate::backend::Capabilities::cookies)): it is held until the guest wants it without.
    pub refused_cookies: u64,
    /// Vectors that were bound again because their device had lost what the host programmed.
    pub rebinds: u64,
    /// Steps that the host refused; each is tried again.
    pub host_failures: u64,
    /// The most host vectors at one time.
    pub high_water: u32,
}

impl Counters {
    /// Counts a vector that the guest left without an interrupt.
    pub(super) fn count(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Invalid(_) => &mut self.invalid_messages,
            Refusal::Fault { .. } => &mut self.remapping_faults,
        };
        counter.increment();
    }
}

/// Where a vector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum State {
    /// It has no host vector.
    Idle,
    /// It has a host vector, and interrupts wait.
    Held,
    /// Its interrupts go to the guest within the kernel.
    Live,
    /// Its interrupts go to the guest by way of userspace, because the kernel has no room for its message.
    Relayed,
    /// It has no host vector (any more), and the kernel has refused to detach its eventfd. What was signalled before may
    /// still be on its way; what comes from now on waits in the device.
    Detaching,
}

/// One vector.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VectorReport {
    /// Its index.
    pub vector: Vector,
    /// Where it is.
    pub state: State,
    /// The message that it is live on, as the guest's interrupt controllers get it.
    pub message: Option<MsiMessage>,
    /// That message's GSI.
    pub gsi: Option<Gsi>,
    /// Interrupts that userspace delivered since it has to; `None` where the kernel delivers and nobody can
    /// count.
    pub delivered: Option<u32>,
    /// An interrupt waits (never so for a live vector).
    pub pending: bool,
    /// What there was too little of, where a refusal still stands.
    pub cause: Option<Cause>,
    /// The refusal in words.
    pub error: Option<String>,
}

/// A domain at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DomainReport {
    /// The capability is turned on in the host.
    pub open: bool,
    /// Vectors that have a host vector and an eventfd.
    pub host_vectors: u32,
    /// Of these, the ones that are live.
    pub live: u32,
    /// The ones that userspace delivers.
    pub relayed: u32,
    /// The ones that the guest has freed and that are given back soon.
    pub expiring: u32,
    /// Vectors that wait for [`DeviceDomain::bind_deferred`](super::DeviceDomain::bind_deferred).
    pub deferred: u32,
    /// Why the host did not turn the capability on or off, where that still stands.
    pub error: Option<String>,
    /// What the device may have of the host.
    pub budget: BudgetReport,
    /// What was done so far.
    pub counters: Counters,
    /// Every vector that has a host vector, an interrupt pending or a failure standing.
    pub vectors: Vec<VectorReport>,
}

impl VectorReport {
    pub(super) fn new(vector: Vector, slot: &Slot, refused: Option<&DomainError>) -> Self {
        let (state, gsi, pending) = match slot {
            Slot::Idle { latched } => (State::Idle, None, *latched),
            Slot::Held { .. } => (State::Held, None, signalled(slot.waiting()).any(|signalled| signalled)),
            Slot::Live { route, .. } => (State::Live, Some(route.gsi()), false),
            Slot::Detaching { route, latched, .. } => (State::Detaching, Some(route.gsi()), *latched),
            Slot::Relayed { .. } => (State::Relayed, None, false),
        };
        let delivered = (state == State::Relayed).then(|| slot.relayed());
        Self {
            vector,
            state,
            message: slot.target().map(Target::message),
            gsi,
            delivered,
            pending,
            cause: refused.map(DomainError::cause),
            error: refused.map(ToString::to_string),
        }
    }

    pub(super) fn is_noteworthy(&self) -> bool {
        self.state != State::Idle || self.pending || self.error.is_some()
    }
}
