//! The interface to the guest's interrupt controllers: it publishes messages and attaches eventfds to them.
//!
//! One router serves a whole VM. Locking: a router locks for itself, after the domain and before the store.
//!
//! An eventfd attaches to a [`Route`]. A `Route` exists only for a published message, and putting it back consumes it. No irqfd can
//! therefore be without a route: KVM would drop its signals.

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
/// It cannot be copied. Give it back by [`Router::put`]: a route that is dropped pins its message for the life of the VM.
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

    /// The message's GSI in the VM's routing table.
    pub fn gsi(&self) -> Gsi {
        self.gsi
    }

    /// The message.
    pub fn message(&self) -> Interrupt {
        self.message
    }
}

/// The result of a message that userspace sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a message that was not accepted has interrupted no vCPU"]
pub enum Signalled {
    /// At least one vCPU has the interrupt.
    Delivered,
    /// No local APIC takes the message: none has its destination, or the APIC is disabled. This is the guest's mistake. The domain
    /// drops the interrupt, as hardware does, and does not try again.
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

/// An eventfd that [`Router::close`] could not close: it is attached as before.
#[derive(Debug)]
pub struct Unclosed {
    /// Its index in the argument of [`Router::close`].
    pub index: usize,
    /// The eventfd.
    pub eventfd: EventFd,
    /// The route that it is attached to.
    pub route: Route,
    /// Why the router could not detach it.
    pub source: RouterError,
}

/// Delivers messages to a guest.
///
/// Interrupts meanwhile: a detached eventfd keeps its signals, and [attaching](Router::attach) it delivers one interrupt for all of
/// them. A router neither reads nor clears an eventfd that is not attached.
pub trait Router: Send + Sync {
    /// Checks a message that a guest wrote, and remaps it if there is a [remapping stage](crate::remap). The answer may change after
    /// an invalidation. The default checks it as an x86 local APIC with 8-bit destinations does, and remaps nothing.
    ///
    /// # Errors
    /// The message addresses an interrupt controller that does not take it. This is the guest's mistake: the domain asks again
    /// after the guest's next change.
    fn translate(&self, message: MsiMessage) -> Result<Target, Refusal> {
        Ok(Target::for_apics(message, DestinationIds::Bits8)?)
    }

    /// Writes a message's data to guest memory, for a message that is not an interrupt ([`Target::Memory`]). An address without memory
    /// is ignored. The default ignores all.
    fn write_memory(&self, message: MsiMessage) {
        let _ = message;
    }

    /// The features that this router leaves to a function's vectors. They do not change.
    fn capabilities(&self) -> Capabilities {
        Capabilities::UNLIMITED
    }

    /// A route of a published message, if getting it takes no call to the host. On `None` the caller calls
    /// [`get_or_publish`](Router::get_or_publish): the message may be published nevertheless.
    fn get(&self, _message: Interrupt) -> Option<Route> {
        None
    }

    /// Gets a route for each message. One commit publishes all messages that are not published yet. `routes` receives one answer a
    /// message, in order. Pass it empty: routes that it contains are dropped and pin their messages.
    fn get_or_publish(&self, messages: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>);

    /// Attaches `eventfd` to a route: its signals become interrupts, beginning with one for the signals that it holds.
    ///
    /// Interrupts meanwhile: a signal during the call may be delivered twice (a race of KVM's own). A domain therefore attaches a new
    /// eventfd before the device has it.
    ///
    /// # Errors
    /// [`RouterError::Attach`]: the eventfd is not attached.
    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError>;

    /// Detaches `eventfd` from its route.
    ///
    /// Interrupts meanwhile: earlier signals have been delivered when this returns. Later signals wait in the eventfd.
    ///
    /// # Errors
    /// [`RouterError::Detach`]: the eventfd is still attached.
    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError>;

    /// Gives a route back. Its eventfd must be detached. The message stays published until its GSI is needed.
    fn put(&self, route: Route);

    /// Detaches eventfds, closes them and gives their routes back. No device signals them any more, and no other process has them open.
    /// A router may do this cheaper than one by one.
    ///
    /// Returns the eventfds that could not be closed, to be detached later.
    ///
    /// Interrupts meanwhile: if all were closed, all signals have been delivered when this returns. Otherwise signals of the closed
    /// eventfds may still be delivered later, on their own messages.
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

    /// Delivers one message now, with no eventfd and no route.
    ///
    /// A router that cannot tell whether an interrupt controller took the message answers [`Signalled::Delivered`].
    ///
    /// # Errors
    /// [`RouterError::Signal`]: nothing was delivered, and the caller tries again later.
    fn signal(&self, message: Interrupt) -> Result<Signalled, RouterError>;
}
