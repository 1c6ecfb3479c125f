//! The interface to the guest's interrupt controllers: it publishes messages, and attaches eventfds to them.
//!
//! One router serves a whole VM. Locking: a router has its own lock, taken after the domain's and before the
//! store's.
//!
//! An eventfd is attached to a [`Route`]. A `Route` exists only for a published message, and [`Router::put`]
//! consumes it. An irqfd therefore always has a route. KVM would drop the signals of an irqfd without one.

use std::fmt;
use std::io;

use vmm_sys_util::eventfd::EventFd;

use crate::apic::DestinationIds;
use crate::backend::Capabilities;
use crate::interrupt::{Interrupt, Target};
use crate::message::MsiMessage;
use crate::refusal::Refusal;

/// A global system interrupt: KVM's number of a published message.
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
/// A route cannot be copied. Return it with [`Router::put`]: a route that is dropped pins its message for the
/// life of the VM.
#[must_use = "a route that is not put back pins its message"]
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    gsi: Gsi,
    message: Interrupt,
}

impl Route {
    /// For routers. A use of `message`, which must be published as `gsi`.
    pub fn new(gsi: Gsi, message: Interrupt) -> Self {
        Self { gsi, message }
    }

    /// The message's GSI in the VM's routing table.
    pub fn gsi(&self) -> Gsi {
        self.gsi
    }

    /// The message.
    pub fn message(&self) -> Interrupt {
        self.message
    }
}

/// The result of a message that userspace has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a message that was not accepted has interrupted no vCPU"]
pub enum Signalled {
    /// At least one vCPU got the interrupt.
    Delivered,
    /// No local APIC accepts the message: none has its destination, or the APIC is disabled. This is the
    /// guest's mistake. The domain drops the interrupt, as hardware does, and does not try again.
    NotAccepted,
}

/// A host failure of a router. Each call may be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouterError {
    /// All routes are in use, or the embedder's allocator has no GSI left.
    #[error("no room for {message}: all {routes} routes are in use")]
    NoRoom {
        /// The message without a route.
        message: Interrupt,
        /// How many routes the VM has for messages.
        routes: usize,
    },
    /// The hypervisor refused the routing table. The old one stays in force.
    #[error("the hypervisor refused a routing table of {routes} entries: {source}")]
    Commit {
        /// The number of entries of the refused table.
        routes: usize,
        /// The hypervisor's error.
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

/// An eventfd that [`Router::close`] could not detach. It is still open and attached.
#[derive(Debug)]
pub struct Unclosed {
    /// Its index in the argument of [`Router::close`].
    pub index: usize,
    /// The eventfd.
    pub eventfd: EventFd,
    /// The route that it is attached to.
    pub route: Route,
    /// The error of the detach.
    pub source: RouterError,
}

/// Delivers messages to a guest.
///
/// Interrupts meanwhile: a detached eventfd keeps its signals, and [attaching](Router::attach) it delivers
/// one interrupt for all of them. A router neither reads nor clears a detached eventfd.
pub trait Router: Send + Sync {
    /// Checks a message that a guest wrote, and remaps it if there is a [remapping stage](crate::remap). The
    /// answer may change after an invalidation. The default checks it as an x86 local APIC with 8-bit
    /// destinations, and remaps nothing.
    ///
    /// # Errors
    /// The message addresses an interrupt controller that does not accept it. This is the guest's mistake.
    /// The domain calls this again after the guest's next change.
    fn translate(&self, message: MsiMessage) -> Result<Target, Refusal> {
        Ok(Target::for_apics(message, DestinationIds::Bits8)?)
    }

    /// Writes a message's data to guest memory, for a message that is not an interrupt ([`Target::Memory`]).
    /// If there is no memory at its address, the message is ignored. The default ignores all.
    fn write_memory(&self, message: MsiMessage) {
        let _ = message;
    }

    /// The features that this router supports for a function's vectors. They do not change.
    fn capabilities(&self) -> Capabilities {
        Capabilities::UNLIMITED
    }

    /// A route of a published message, if that takes no host call. On `None`, the caller calls
    /// [`get_or_publish`](Router::get_or_publish). The message may be published nevertheless.
    fn get(&self, _message: Interrupt) -> Option<Route> {
        None
    }

    /// Gets a route for each message. One commit publishes all messages that are missing. `routes` receives
    /// one result per message, in order. It must be empty: routes that it contains are dropped, and pin their
    /// messages.
    fn get_or_publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>);

    /// Attaches `eventfd` to a route. Its signals become interrupts, beginning with one for the signals that
    /// it holds.
    ///
    /// Interrupts meanwhile: a signal during the call may be delivered twice, because of a race in KVM. A
    /// domain therefore attaches a new eventfd before the device has it.
    ///
    /// # Errors
    /// [`RouterError::Attach`]: the eventfd is not attached.
    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError>;

    /// Detaches `eventfd` from its route.
    ///
    /// Interrupts meanwhile: earlier signals have been delivered when this returns. Later signals wait in the
    /// eventfd.
    ///
    /// # Errors
    /// [`RouterError::Detach`]: the eventfd is still attached.
    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError>;

    /// Puts a route back. Its eventfd must be detached. The message stays published until its GSI is needed.
    fn put(&self, route: Route);

    /// Detaches eventfds, closes them and puts their routes back. No device may signal them any more, and no
    /// other process may have them open. A router may do this at less cost than one by one.
    ///
    /// Returns the eventfds that could not be detached.
    ///
    /// Interrupts meanwhile: if all were closed, all signals have been delivered when this returns. Otherwise
    /// signals of the closed eventfds may still be delivered later, on their own messages.
    #[must_use = "an eventfd that is still attached has to be detached"]
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

    /// Delivers one message now, without an eventfd or a route.
    ///
    /// A router that cannot tell whether an interrupt controller accepted the message returns
    /// [`Signalled::Delivered`].
    ///
    /// # Errors
    /// [`RouterError::Signal`]: nothing was delivered, and the caller tries again later.
    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError>;
}
