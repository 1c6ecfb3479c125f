//! What one vector is in the host now, and the steps between its states.
//!
//! The five states are the only ones there are, and each owns exactly what it needs. Each step is written
//! here and nowhere else, consumes the state it starts from, and gives it back unchanged where the host
//! refuses; where that refuses the way back as well, the vector is ending. The rules that keep interrupts
//! from being lost are in the order of the calls within a step.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::error::DomainError;
use crate::backend::Backend;
use crate::budget::{Budget, Share};
use crate::delivery::Vector;
use crate::interrupt::Interrupt;
use crate::router::{Route, Router};
use crate::signalled::{borrow, signalled};

/// A vector in the host.
#[derive(Debug)]
pub(super) enum Slot {
    /// No eventfd and no host vector. An interrupt waits in the device's own pending bits, or was `latched`
    /// when the eventfd was closed.
    Idle { latched: bool },
    /// The eventfd is attached to nothing: its counter is the pending bit.
    Held { host: HostVector },
    /// The kernel turns the eventfd's signals into `route`'s message.
    Live { host: HostVector, route: Route },
    /// Userspace watches the eventfd and turns its signals into `message` itself; so often it has.
    Relayed { host: HostVector, message: Interrupt, delivered: u32 },
    /// The device does not have the eventfd (any more), and the kernel has refused to detach it: it is still `route`'s. An
    /// interrupt that was `latched` since then is not.
    Ending { host: HostVector, route: Route, latched: bool },
}

/// What a vector has of the host, for as long as it has it.
#[derive(Debug)]
pub(super) struct HostVector {
    /// What the device fires.
    pub(super) eventfd: EventFd,
    /// Goes back with it.
    _share: Share,
}

/// A step, or the state that it started from (or [`Slot::Ending`]) and the host's reason.
pub(super) type Step = Result<Slot, (Slot, DomainError)>;

impl HostVector {
    /// What is needed to request one; the device does not have the eventfd yet.
    fn prepare(vector: Vector, budget: &Arc<Budget>) -> Result<Self, DomainError> {
        let share = budget.take().map_err(|source| DomainError::Budget { vector, source })?;
        let no_eventfd = |source| DomainError::Eventfd { vector, source };
        let eventfd = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(no_eventfd)?;
        Ok(Self { eventfd, _share: share })
    }

    /// Of one whose eventfd is attached to nothing.
    fn is_signalled(&self) -> bool {
        signalled([&self.eventfd]).any(|signalled| signalled)
    }
}

impl Slot {
    /// A vector that nobody has used.
    pub(super) const UNUSED: Self = Self::Idle { latched: false };

    /// True of a vector that is as one that nobody has used.
    pub(super) fn is_unused(&self) -> bool {
        matches!(self, Self::Idle { latched: false })
    }

    /// The message that the vector's signals become now.
    pub(super) fn message(&self) -> Option<Interrupt> {
        match self {
            Self::Live { route, .. } | Self::Ending { route, .. } => Some(route.message()),
            Self::Relayed { message, .. } => Some(*message),
            Self::Idle { .. } | Self::Held { .. } => None,
        }
    }

    /// True of a vector that the device has an eventfd for.
    pub(super) fn has_host_vector(&self) -> bool {
        match self {
            Self::Held { .. } | Self::Live { .. } | Self::Relayed { .. } => true,
            Self::Idle { .. } | Self::Ending { .. } => false,
        }
    }

    /// True of a vector that has an irqfd: what its eventfd is signalled, the kernel delivers.
    pub(super) fn is_attached(&self) -> bool {
        match self {
            Self::Live { .. } | Self::Ending { .. } => true,
            Self::Idle { .. } | Self::Held { .. } | Self::Relayed { .. } => false,
        }
    }

    /// The eventfd of a vector whose interrupts wait in one.
    pub(super) fn waiting(&self) -> Option<&EventFd> {
        match self {
            Self::Held { host } => Some(&host.eventfd),
            Self::Idle { .. } | Self::Live { .. } | Self::Relayed { .. } | Self::Ending { .. } => None,
        }
    }

    /// Those of `slots` for which interrupts wait here, and not in the device: one system call for any number.
    pub(super) fn wait_here<'a>(
        slots: impl Iterator<Item = (Vector, &'a Self)> + Clone,
    ) -> impl Iterator<Item = Vector> {
        let mut held = signalled(slots.clone().filter_map(|(_, slot)| slot.waiting()));
        slots.filter_map(move |(vector, slot)| {
            let waits = match slot {
                Self::Idle { latched } | Self::Ending { latched, .. } => *latched,
                Self::Held { .. } => held.next().unwrap_or(true),
                Self::Live { .. } | Self::Relayed { .. } => false,
            };
            waits.then_some(vector)
        })
    }

    /// How often userspace has delivered the vector since it has to.
    pub(super) fn relayed(&self) -> u32 {
        match self {
            Self::Relayed { delivered, .. } => *delivered,
            Self::Idle { .. } | Self::Held { .. } | Self::Live { .. } | Self::Ending { .. } => 0,
        }
    }

    /// Forgets the interrupt that waits, if one does.
    pub(super) fn clear_pending(&mut self) {
        match self {
            Self::Idle { latched } | Self::Ending { latched, .. } => *latched = false,
            // It fails where the eventfd holds nothing, which is as well.
            Self::Held { host } => drop(host.eventfd.read()),
            Self::Live { .. } | Self::Relayed { .. } => {}
        }
    }

    /// One interrupt waits from now on.
    pub(super) fn latch(&mut self) {
        match self {
            Self::Idle { latched } | Self::Ending { latched, .. } => *latched = true,
            // It fails where the eventfd is full, and then some wait already.
            Self::Held { host } | Self::Live { host, .. } | Self::Relayed { host, .. } => {
                drop(host.eventfd.write(1));
            }
        }
    }

    /// Idle to held: the host vector is requested. What was latched, and what the device has pending, is in
    /// the eventfd afterwards.
    pub(super) fn bind(self, vector: Vector, backend: &mut dyn Backend, budget: &Arc<Budget>) -> Step {
        let Self::Idle { latched } = self else { return Ok(self) };
        let bind = |host: HostVector| {
            if latched {
                host.eventfd.write(1).map_err(|source| DomainError::Eventfd { vector, source })?;
            }
            backend.bind(vector, &host.eventfd)?;
            Ok(Self::Held { host })
        };
        HostVector::prepare(vector, budget).and_then(bind).map_err(|error| (self, error))
    }

    /// Idle to live, where nothing is latched: the eventfd is attached before the device has it, so each of its signals meets
    /// an irqfd that is attached already. One that comes while KVM attaches may be delivered twice (Linux virt/kvm/eventfd.c:
    /// once by `irqfd_wakeup`, which takes it, and once where `kvm_irqfd_assign` has polled just before).
    pub(super) fn request(
        self,
        vector: Vector,
        route: Route,
        router: &dyn Router,
        backend: &mut dyn Backend,
        budget: &Arc<Budget>,
    ) -> Step {
        let prepare = || {
            let host = HostVector::prepare(vector, budget)?;
            router.attach(&host.eventfd, &route)?;
            Ok(host)
        };
        let host = match prepare() {
            Ok(host) => host,
            Err(error) => {
                router.withdraw(route);
                return Err((self, error));
            }
        };
        match backend.bind(vector, &host.eventfd) {
            Ok(()) => Ok(Self::Live { host, route }),
            Err(error) => Self::unrequested(host, route, router, error.into()),
        }
    }

    /// The kernel may refuse the way back, and that is what has to be tried again first.
    #[cold]
    fn unrequested(host: HostVector, route: Route, router: &dyn Router, error: DomainError) -> Step {
        Self::Live { host, route }.shut(router).and_then(|idle| Err((idle, error)))
    }

    /// Held to live. The route is published already, so a signal that waits or comes meanwhile meets it. One that comes
    /// in that moment may be delivered twice (see [`Slot::request`]): the device has the eventfd, and an interrupt too many
    /// is harmless.
    pub(super) fn attach(self, route: Route, router: &dyn Router) -> Step {
        let Self::Held { host } = self else {
            router.withdraw(route);
            return Ok(self);
        };
        match router.attach(&host.eventfd, &route) {
            Ok(()) => Ok(Self::Live { host, route }),
            Err(error) => {
                router.withdraw(route);
                Err((Self::Held { host }, error.into()))
            }
        }
    }

    /// Held to relayed: `relay` tells when there is something to deliver, beginning with what waits.
    pub(super) fn relay(self, vector: Vector, message: Interrupt, relay: &OwnedFd) -> Step {
        let Self::Held { host } = self else { return Ok(self) };
        let token = epoll::EventData::new_u64(vector.0.into());
        match epoll::add(relay, borrow(&host.eventfd), token, epoll::EventFlags::IN) {
            Ok(()) => Ok(Self::Relayed { host, message, delivered: 0 }),
            Err(errno) => Err((Self::Held { host }, DomainError::Relay { vector, source: errno.into() })),
        }
    }

    /// Live or relayed to held: the eventfd is detached first, so what comes from now on waits in it; the route
    /// goes when nothing can meet its absence. Ending to idle, by the same steps.
    pub(super) fn hold(self, router: &dyn Router, relay: Option<&OwnedFd>) -> Step {
        match self {
            Self::Live { host, route } => match router.detach(&host.eventfd, &route) {
                Ok(()) => {
                    router.withdraw(route);
                    Ok(Self::Held { host })
                }
                Err(error) => Err((Self::Live { host, route }, error.into())),
            },
            Self::Relayed { host, .. } => {
                // It fails only for an eventfd that is not watched, and then there is nothing to undo.
                let _ = relay.map(|relay| epoll::delete(relay.as_fd(), borrow(&host.eventfd)));
                Ok(Self::Held { host })
            }
            Self::Ending { host, route, latched } => match router.detach(&host.eventfd, &route) {
                Ok(()) => {
                    router.withdraw(route);
                    Ok(Self::Idle { latched: latched || host.is_signalled() })
                }
                Err(error) => Err((Self::Ending { host, route, latched }, error.into())),
            },
            Self::Idle { .. } | Self::Held { .. } => Ok(self),
        }
    }

    /// Held to idle: the host vector is given back, and only then is the eventfd looked at for the last time.
    pub(super) fn unbind(self, vector: Vector, backend: &mut dyn Backend) -> Step {
        let Self::Held { host } = &self else { return Ok(self) };
        match backend.unbind(vector) {
            Ok(()) => Ok(Self::closed(host)),
            Err(error) => Err((self, error.into())),
        }
    }

    /// Idle, after what nobody signals or listens to any more was looked at for the last time.
    fn closed(host: &HostVector) -> Self {
        Self::Idle { latched: host.is_signalled() }
    }

    /// Live to idle, where the device fires nothing any more: what there is to close, and the share that goes then.
    pub(super) fn part(&mut self) -> Option<((EventFd, Route), Share)> {
        match std::mem::replace(self, Self::UNUSED) {
            Self::Live { host: HostVector { eventfd, _share }, route } => Some(((eventfd, route), _share)),
            other => {
                *self = other;
                None
            }
        }
    }

    /// The way back from [`Slot::part`], of what could not be closed.
    pub(super) fn unparted((eventfd, route): (EventFd, Route), share: Share) -> Self {
        Self::Ending { host: HostVector { eventfd, _share: share }, route, latched: false }
    }

    /// Any state to idle, where the device fires nothing any more; or to ending, where the kernel refuses to detach.
    pub(super) fn shut(self, router: &dyn Router) -> Step {
        match self {
            Self::Idle { .. } | Self::Ending { .. } => Ok(self),
            Self::Held { host } | Self::Relayed { host, .. } => Ok(Self::closed(&host)),
            Self::Live { host, route } => Self::Ending { host, route, latched: false }.hold(router, None),
        }
    }
}
