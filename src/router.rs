//! The seam towards the guest's interrupt controllers: messages are published, eventfds attached to them.
//!
//! One router serves a whole VM and every domain in it; implementations lock for themselves, after the domain
//! and before the store. The order of the calls is a type's matter: an eventfd attaches to a [`Route`], which
//! there is only for a message that is published, and a `Route` that is put back is gone. So no signal can meet an irqfd
//! without a route, where KVM would drop it.

use std::fmt;
use std::io;

use vmm_sys_util::eventfd::EventFd;

use crate::apic::DestinationIds;
use crate::backend::Capabilities;
use crate::interrupt::{Interrupt, Target};
use crate::message::MsiMessage;
use crate::refusal::Refusal;

/// A global system interrupt: the number by which KVM knows a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Gsi(pub u32);

impl fmt::Display for Gsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One use of a published message. While it lives, the message keeps its GSI.
///
/// It cannot be copied, and goes back by [`Router::put`]: one that is dropped pins its message for the
/// life of the VM.
#[must_use = "a route that is not put back pins its message"]
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    gsi: Gsi,
    message: Interrupt,
}

impl Route {
    /// For routers: a use of `message`, which is published as `gsi`.
    pub fn new(gsi: Gsi, message: Interrupt) -> Self {
        Self { gsi, message }
    }

    /// Where the message is in the VM's routing table.
    pub fn gsi(&self) -> Gsi {
        self.gsi
    }

    /// The message.
    pub fn message(&self) -> Interrupt {
        self.message
    }
}

/// What became of a message that userspace sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a message that was not accepted has interrupted nobody"]
pub enum Signalled {
    /// At least one vCPU has the interrupt.
    Delivered,
    /// No local APIC takes the message: none has its destination, or the APIC is disabled. Hardware drops such a message, and so
    /// does the domain. It is the guest's mistake and not worth another try.
    NotAccepted,
}

/// What a router could not do: the host's failures, each worth another try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouterError {
    /// Every route is in use by some live vector, or the embedder's allocator has no GSI left.
    #[error("no room for {message}: all {routes} routes are in use")]
    NoRoom {
        /// The message without a route.
        message: Interrupt,
        /// How many routes the VM has for messages.
        routes: usize,
    },
    /// The hypervisor refused the routing table; the old one stays in force.
    #[error("the hypervisor refused a routing table of {routes} entries: {source}")]
    Commit {
        /// Entries of the refused table.
        routes: usize,
        /// The hypervisor's reason.
        source: io::Error,
    },
    /// KVM refused to attach an eventfd.
    #[error("KVM_IRQFD could not attach an eventfd to GSI {gsi}: {source}")]
    Attach {
        /// The published message's GSI.
        gsi: Gsi,
        /// The kernel's reason.
        source: io::Error,
    },
    /// KVM refused to detach an eventfd.
    #[error("KVM_IRQFD could not detach an eventfd from GSI {gsi}: {source}")]
    Detach {
        /// The published message's GSI.
        gsi: Gsi,
        /// The kernel's reason.
        source: io::Error,
    },
    /// KVM refused to deliver a message that userspace sent.
    #[error("KVM_SIGNAL_MSI of {message} failed: {source}")]
    Signal {
        /// The message.
        message: Interrupt,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// An eventfd that a router was to close and could not: it is attached as before.
#[derive(Debug)]
pub struct Unclosed {
    /// Its place among those that were to be closed.
    pub index: usize,
    /// The eventfd.
    pub eventfd: EventFd,
    /// What it is attached to.
    pub route: Route,
    /// Why.
    pub source: RouterError,
}

/// Delivers messages to a guest.
///
/// Interrupts that arrive meanwhile: an eventfd that is attached to nothing keeps its signals, and attaching
/// it delivers one interrupt for all of them, besides what comes [at that moment](Router::attach). Nothing that a router
/// does reads or clears an eventfd that is not attached.
pub trait Router: Send + Sync {
    /// What a message that a guest wrote does now. Where nothing remaps, that is the message itself, checked: by default as an
    /// x86 local APIC takes it, with destinations of 8 bits. The answer may change: see [`remap`](crate::remap).
    ///
    /// # Errors
    /// The message is for an interrupt controller, which would not take it. It is the guest's mistake: the domain asks again
    /// when the guest has changed something.
    fn translate(&self, message: MsiMessage) -> Result<Target, Refusal> {
        Ok(Target::for_apics(message, DestinationIds::Bits8)?)
    }

    /// Writes a message's data to the guest's memory, as a device does whose message is no interrupt ([`Target::Memory`]).
    /// Nothing is written where there is no memory, which is the default.
    fn write_memory(&self, message: MsiMessage) {
        let _ = message;
    }

    /// What this parent can do for a function's vectors. It stays the same for the router's life.
    fn capabilities(&self) -> Capabilities {
        Capabilities::UNLIMITED
    }

    /// One more use of a message that is published, if that takes no call to the host. `None` does not mean that the message is not
    /// published: a router may be unable to tell. The caller then asks it to [publish](Router::get_or_publish) the message.
    fn get(&self, _message: Interrupt) -> Option<Route> {
        None
    }

    /// Gives each message a route, those that are not published yet by one commit for all of them. `routes`
    /// receives one answer per message, in order; what it held before is dropped unseen, so pass it empty.
    fn get_or_publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>);

    /// Attaches `eventfd`: from now on its signals are interrupts, beginning with one for what it holds. One that comes
    /// meanwhile may be two (KVM's own race); so an eventfd that nobody signals yet is attached before anybody can.
    ///
    /// # Errors
    /// [`RouterError::Attach`]; the eventfd is then as before.
    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError>;

    /// Detaches `eventfd`: no signal becomes an interrupt once this has returned; signals wait in the eventfd.
    /// Those that came before have been delivered.
    ///
    /// # Errors
    /// [`RouterError::Detach`]; the eventfd is then still attached.
    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError>;

    /// Gives a use of a message back. Its eventfd must be detached. The message stays published until its room
    /// is needed.
    fn put(&self, route: Route);

    /// Detaches eventfds that nobody signals any more and that nobody else has open, closes them and gives their
    /// routes back: one by one, or cheaper where that can be. When this has returned, all that was signalled has been
    /// delivered.
    ///
    /// What could not be closed comes back, to be detached later. Until then what was signalled for the others too may
    /// still be on its way, on the messages that it was meant for.
    #[must_use = "what is still attached has to be detached"]
    fn close(&self, attached: Vec<(EventFd, Route)>) -> Vec<Unclosed> {
        let close = |(index, (eventfd, route))| match self.detach(&eventfd, &route) {
            Ok(()) => {
                self.put(route);
                None
            }
            Err(source) => Some(Unclosed { index, eventfd, route, source }),
        };
        attached.into_iter().enumerate().filter_map(close).collect()
    }

    /// Delivers one message now, with no eventfd and no route.
    ///
    /// A router that cannot tell whether anybody took the message answers [`Signalled::Delivered`].
    ///
    /// # Errors
    /// [`RouterError::Signal`]: the host failed. Nothing was delivered, and the caller tries again later.
    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError>;
}
