//! A domain's report: each vector that is in use, and counters.

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

/// Counters since the domain was made. They never decrease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counters {
    /// Host vectors requested.
    pub binds: u64,
    /// Host vectors released one by one.
    pub unbinds: u64,
    /// Irqfds attached. A vector goes live by that, or becomes [`State::Detaching`] if the backend and then the kernel refuse.
    pub attaches: u64,
    /// Irqfds detached. `attaches` - `detaches` vectors have an irqfd now.
    pub detaches: u64,
    /// How often the capability was enabled in the host.
    pub opens: u64,
    /// How often the capability was disabled in the host.
    pub closes: u64,
    /// Interrupts that userspace delivered.
    pub relayed: u64,
    /// Interrupts that userspace sent and no interrupt controller accepted
    /// ([`Signalled::NotAccepted`](crate::router::Signalled::NotAccepted)). This is the guest's mistake. They are
    /// dropped, as on hardware.
    pub unaccepted: u64,
    /// Syncs of an unmasked vector whose message no interrupt controller takes. This is the guest's mistake.
    pub invalid_messages: u64,
    /// Syncs of an unmasked vector whose message the remapping unit refused.
    pub remapping_faults: u64,
    /// Syncs of an unmasked vector with a cookie, of a device without cookies
    /// ([`Capabilities::cookies`](crate::backend::Capabilities::cookies)). The vector is held until the guest removes the cookie.
    pub refused_cookies: u64,
    /// Vectors that were bound again because their device had lost what the host programmed.
    pub rebinds: u64,
    /// Steps that the host refused. Each is tried again.
    pub host_failures: u64,
    /// The highest number of host vectors at one time.
    pub high_water: u32,
}

impl Counters {
    /// Counts a refused message.
    pub(super) fn count(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Invalid(_) => &mut self.invalid_messages,
            Refusal::Fault { .. } => &mut self.remapping_faults,
        };
        counter.increment();
    }
}

/// The state of a vector in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum State {
    /// It has no host vector.
    Idle,
    /// It has a host vector, and interrupts wait.
    Held,
    /// The kernel delivers its interrupts.
    Live,
    /// Userspace delivers its interrupts, because its message has no route or is a write to memory.
    Relayed,
    /// It has no host vector (any more), and the kernel has refused to detach its eventfd. Earlier signals may still be delivered. New
    /// interrupts wait in the device.
    Detaching,
}

/// One vector.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VectorReport {
    /// Its index.
    pub vector: Vector,
    /// Its state in the host.
    pub state: State,
    /// The message that it delivers, as the guest's interrupt controllers get it.
    pub message: Option<MsiMessage>,
    /// The GSI of `message`.
    pub gsi: Option<Gsi>,
    /// Interrupts that userspace delivered since the vector is relayed; `None` if the kernel delivers, which does not count.
    pub delivered: Option<u32>,
    /// An interrupt waits. It is false for a live vector.
    pub pending: bool,
    /// The kind of the refusal, if a step is to be tried again.
    pub cause: Option<Cause>,
    /// The text of the refusal.
    pub error: Option<String>,
}

/// A domain at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DomainReport {
    /// The capability is enabled in the host.
    pub open: bool,
    /// Vectors that have a host vector and an eventfd.
    pub host_vectors: u32,
    /// Vectors that the kernel delivers.
    pub live: u32,
    /// Vectors that userspace delivers.
    pub relayed: u32,
    /// Freed vectors that keep their host vector until their release delay is over.
    pub expiring: u32,
    /// Vectors that wait for [`DeviceDomain::bind_deferred`](super::DeviceDomain::bind_deferred).
    pub deferred: u32,
    /// Why the host refused to enable or disable the capability, if it is to be tried again.
    pub error: Option<String>,
    /// The device's budget.
    pub budget: BudgetReport,
    /// Counters since the domain was made.
    pub counters: Counters,
    /// Every vector with a host vector, a pending interrupt or a refused step.
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
