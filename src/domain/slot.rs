//! The state of one vector in the host, and the steps between its states.
//!
//! There are five states, and each owns exactly what it needs. Each step is written here and nowhere else. It changes the slot in
//! place, and leaves it unchanged if the host refuses or the call panics. The order of the calls within a step keeps interrupts from
//! being lost.

use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use vmm_sys_util::eventfd::EventFd;

use super::error::DomainError;
use crate::backend::Backend;
use crate::budget::{DeviceBudget, Share};
use crate::delivery::Vector;
use crate::interrupt::Target;
use crate::router::{Route, Router};
use crate::signalled::{borrow, signalled};

/// A vector in the host.
#[derive(Debug)]
pub(super) enum Slot {
    /// No eventfd and no host vector. An interrupt waits in the device's own pending bits, or was `latched` when the eventfd was
    /// closed.
    Idle { latched: bool },
    /// The eventfd is detached: its counter is the pending bit.
    Held { host: HostVector },
    /// The eventfd is an irqfd: the kernel turns its signals into `route`'s message.
    Live { host: HostVector, route: Route },
    /// Userspace reads the eventfd and delivers to `target`: the message has no route, or it is a write to memory. Userspace has
    /// delivered `delivered` interrupts.
    Relayed { host: HostVector, target: Target, delivered: u32 },
    /// The device does not have the eventfd (any more), which is still attached to `route`. An interrupt that was `latched`
    /// since then is not in the eventfd.
    Detaching { host: HostVector, route: Route, latched: bool },
}

/// A vector's host vector: its eventfd and its share of the budget.
#[derive(Debug)]
pub(super) struct HostVector {
    /// The device signals it.
    pub(super) eventfd: EventFd,
    /// The vector's last target. A driver that rewrites the same message may do so because its device has lost it.
    last: Option<Target>,
    /// Its share of the budget.
    _share: Share,
}

type Step = Result<(), DomainError>;

impl HostVector {
    /// Takes an eventfd and a share of the budget. The device does not have the eventfd yet.
    fn prepare(
        vector: Vector,
        backend: &mut dyn Backend,
        budget: &Arc<DeviceBudget>,
    ) -> Result<Self, DomainError> {
        let share = budget.take().map_err(|source| DomainError::Budget { vector, source })?;
        let eventfd = backend.eventfd(vector).map_err(|source| DomainError::Eventfd { vector, source })?;
        Ok(Self { eventfd, last: None, _share: share })
    }

    /// Whether the eventfd, which must be detached, holds a signal.
    fn is_signalled(&self) -> bool {
        signalled([&self.eventfd]).any(|signalled| signalled)
    }
}

impl Slot {
    /// The state of a vector that the guest has not used.
    pub(super) const UNUSED: Self = Self::Idle { latched: false };

    /// Whether the vector is in the state of one that the guest has not used.
    pub(super) fn is_unused(&self) -> bool {
        matches!(self, Self::Idle { latched: false })
    }

    /// The target that the vector's signals are delivered to now.
    pub(super) fn target(&self) -> Option<Target> {
        match self {
            Self::Live { route, .. } | Self::Detaching { route, .. } => {
                Some(Target::Interrupt(route.message()))
            }
            Self::Relayed { target, .. } => Some(*target),
            Self::Idle { .. } | Self::Held { .. } => None,
        }
    }

    /// The vector's last target, if it still has the same host vector.
    pub(super) fn last_target(&self) -> Option<Target> {
        match self {
            Self::Held { host } => host.last,
            _ => self.target(),
        }
    }

    /// Whether the device has the vector's eventfd.
    pub(super) fn has_host_vector(&self) -> bool {
        match self {
            Self::Held { .. } | Self::Live { .. } | Self::Relayed { .. } => true,
            Self::Idle { .. } | Self::Detaching { .. } => false,
        }
    }

    /// Whether the vector's eventfd is an irqfd.
    pub(super) fn is_attached(&self) -> bool {
        match self {
            Self::Live { .. } | Self::Detaching { .. } => true,
            Self::Idle { .. } | Self::Held { .. } | Self::Relayed { .. } => false,
        }
    }

    /// Whether the vector's signals are delivered.
    pub(super) fn delivers(&self) -> bool {
        match self {
            Self::Live { .. } | Self::Relayed { .. } | Self::Detaching { .. } => true,
            Self::Idle { .. } | Self::Held { .. } => false,
        }
    }

    /// The eventfd of a vector whose interrupts wait in it.
    pub(super) fn waiting(&self) -> Option<&EventFd> {
        match self {
            Self::Held { host } => Some(&host.eventfd),
            Self::Idle { .. } | Self::Live { .. } | Self::Relayed { .. } | Self::Detaching { .. } => None,
        }
    }

    /// The vectors of `slots` for which interrupts wait here and not in the device. It takes one system call for any number.
    pub(super) fn wait_here<'a>(slots: impl Iterator<Item = (Vector, &'a Self)>) -> Vec<Vector> {
        let (mut waiting, mut held) = (Vec::new(), Vec::new());
        for (vector, slot) in slots {
            match slot {
                Self::Idle { latched: true } | Self::Detaching { latched: true, .. } => waiting.push(vector),
                Self::Held { host } => held.push((vector, &host.eventfd)),
                Self::Idle { .. } | Self::Live { .. } | Self::Relayed { .. } | Self::Detaching { .. } => {}
            }
        }
        let signalled = signalled(held.iter().map(|(_, eventfd)| *eventfd));
        let held = held.iter().zip(signalled).filter(|(_, is_signalled)| *is_signalled);
        waiting.extend(held.map(|((vector, _), _)| *vector));
        waiting
    }

    /// How many interrupts userspace has delivered for the vector since it is relayed.
    pub(super) fn relayed(&self) -> u32 {
        match self {
            Self::Relayed { delivered, .. } => *delivered,
            Self::Idle { .. } | Self::Held { .. } | Self::Live { .. } | Self::Detaching { .. } => 0,
        }
    }

    /// Drops the interrupt that waits, if there is one.
    pub(super) fn clear_pending(&mut self) {
        match self {
            Self::Idle { latched } | Self::Detaching { latched, .. } => *latched = false,
            // An empty eventfd answers EAGAIN.
            Self::Held { host } => drop(host.eventfd.read()),
            Self::Live { .. } | Self::Relayed { .. } => {}
        }
    }

    /// Makes one interrupt wait.
    pub(super) fn latch(&mut self) {
        match self {
            Self::Idle { latched } | Self::Detaching { latched, .. } => *latched = true,
            // A full eventfd answers EAGAIN, and holds signals already.
            Self::Held { host } | Self::Live { host, .. } | Self::Relayed { host, .. } => {
                drop(host.eventfd.write(1));
            }
        }
    }

    /// Idle to held: requests the host vector. A latched interrupt, and one that is pending in the device, are in the eventfd
    /// afterwards.
    pub(super) fn bind(
        &mut self,
        vector: Vector,
        backend: &mut dyn Backend,
        budget: &Arc<DeviceBudget>,
    ) -> Step {
        let Self::Idle { latched } = *self else { return Ok(()) };
        let host = HostVector::prepare(vector, backend, budget)?;
        if latched {
            host.eventfd.write(1).map_err(|source| DomainError::Eventfd { vector, source })?;
        }
        backend.bind(vector, &host.eventfd)?;
        *self = Self::Held { host };
        Ok(())
    }

    /// Idle to live, for a vector without a latched interrupt. The eventfd is attached before the device has it, so each signal meets
    /// an attached irqfd. A signal while KVM attaches could be delivered twice (Linux virt/kvm/eventfd.c: once by `irqfd_wakeup`, and
    /// once by `kvm_irqfd_assign`, which has polled just before).
    pub(super) fn request(
        &mut self,
        vector: Vector,
        route: Route,
        router: &dyn Router,
        backend: &mut dyn Backend,
        budget: &Arc<DeviceBudget>,
    ) -> Step {
        let mut prepare = || {
            let host = HostVector::prepare(vector, backend, budget)?;
            router.attach(&host.eventfd, &route)?;
            Ok(host)
        };
        match prepare() {
            Ok(host) => *self = Self::Detaching { host, route, latched: false },
            Err(error) => {
                router.put(route);
                return Err(error);
            }
        }
        let Self::Detaching { host, .. } = &*self else { return Ok(()) };
        match backend.bind(vector, &host.eventfd) {
            Ok(()) => {
                match mem::replace(self, Self::UNUSED) {
                    Self::Detaching { host, route, .. } => *self = Self::Live { host, route },
                    other => *self = other,
                }
                Ok(())
            }
            // If the kernel refuses to detach, the detach has to be tried again first.
            Err(error) => {
                self.hold(router, None)?;
                Err(error.into())
            }
        }
    }

    /// Held to live. The route is published already, so waiting and new signals are delivered on it. A signal during the call may be
    /// delivered twice (see [`Slot::request`]), because the device has the eventfd. A spurious interrupt is harmless.
    pub(super) fn attach(&mut self, route: Route, router: &dyn Router) -> Step {
        let Self::Held { host } = &*self else {
            router.put(route);
            return Ok(());
        };
        if let Err(error) = router.attach(&host.eventfd, &route) {
            router.put(route);
            return Err(error.into());
        }
        match mem::replace(self, Self::UNUSED) {
            Self::Held { host } => *self = Self::Live { host, route },
            other => *self = other,
        }
        Ok(())
    }

    /// Held to relayed. The epoll descriptor `relay`, if an embedder has one, becomes readable for waiting and new signals.
    pub(super) fn relay(&mut self, vector: Vector, target: Target, relay: Option<&OwnedFd>) -> Step {
        let Self::Held { host } = &*self else { return Ok(()) };
        if let Some(relay) = relay {
            let token = epoll::EventData::new_u64(vector.0.into());
            epoll::add(relay, borrow(&host.eventfd), token, epoll::EventFlags::IN)
                .map_err(|errno| DomainError::Relay { vector, source: errno.into() })?;
        }
        self.replace(|slot| match slot {
            Self::Held { host } => Self::Relayed { host, target, delivered: 0 },
            other => other,
        });
        Ok(())
    }

    /// Live or relayed to held, and detaching to idle. The eventfd is detached first, so later signals wait in it. Then the route is
    /// put back, because no signal needs it any more.
    pub(super) fn hold(&mut self, router: &dyn Router, relay: Option<&OwnedFd>) -> Step {
        match self {
            Self::Live { host, route } | Self::Detaching { host, route, .. } => {
                router.detach(&host.eventfd, route)?;
            }
            Self::Relayed { host, target, .. } => {
                // It fails only for an eventfd that is not in the epoll set.
                let _ = relay.map(|relay| epoll::delete(relay.as_fd(), borrow(&host.eventfd)));
                // A pending write to memory is done now: the vector's next message must not deliver it as an interrupt.
                if let Target::Memory(message) = *target
                    && host.eventfd.read().is_ok()
                {
                    router.write_memory(message);
                }
            }
            Self::Idle { .. } | Self::Held { .. } => return Ok(()),
        }
        let last = self.target();
        match mem::replace(self, Self::UNUSED) {
            Self::Live { host, route } => {
                *self = Self::Held { host: HostVector { last, ..host } };
                router.put(route);
            }
            Self::Relayed { host, .. } => *self = Self::Held { host: HostVector { last, ..host } },
            Self::Detaching { host, route, latched } => {
                *self = Self::Idle { latched: latched || host.is_signalled() };
                router.put(route);
            }
            other => *self = other,
        }
        Ok(())
    }

    /// Held to idle. The host vector is unbound before the eventfd is read for the last time, so no signal is lost between the two.
    pub(super) fn unbind(&mut self, vector: Vector, backend: &mut dyn Backend) -> Step {
        let Self::Held { host } = &*self else { return Ok(()) };
        backend.unbind(vector)?;
        *self = Self::Idle { latched: host.is_signalled() };
        Ok(())
    }

    /// Live to idle, after the device has stopped signalling. Returns the eventfd with its route, to be closed together with others, and
    /// the share of the budget.
    pub(super) fn take_attached(&mut self) -> Option<((EventFd, Route), Share)> {
        let mut taken = None;
        self.replace(|slot| match slot {
            Self::Live { host: HostVector { eventfd, _share, .. }, route } => {
                taken = Some(((eventfd, route), _share));
                Self::UNUSED
            }
            other => other,
        });
        taken
    }

    /// The detaching state of an eventfd that [`Slot::take_attached`] has returned and that could not be closed.
    pub(super) fn restore_attached((eventfd, route): (EventFd, Route), share: Share) -> Self {
        let host = HostVector { eventfd, last: None, _share: share };
        Self::Detaching { host, route, latched: false }
    }

    /// Any state to idle, after the device has stopped signalling; or to detaching, if the kernel refuses to detach.
    pub(super) fn close(&mut self, router: &dyn Router) -> Step {
        if matches!(self, Self::Detaching { .. }) {
            return Ok(());
        }
        self.replace(|slot| match slot {
            Self::Live { host, route } => Self::Detaching { host, route, latched: false },
            other => other,
        });
        match self {
            Self::Idle { .. } | Self::Live { .. } => Ok(()),
            Self::Detaching { .. } => self.hold(router, None),
            Self::Relayed { .. } => {
                // Closing the eventfd ends the watch on it.
                self.hold(router, None)?;
                self.close(router)
            }
            Self::Held { host } => {
                *self = Self::Idle { latched: host.is_signalled() };
                Ok(())
            }
        }
    }

    /// Changes the state by `change`, which only moves values.
    fn replace(&mut self, change: impl FnOnce(Self) -> Self) {
        *self = change(mem::replace(self, Self::UNUSED));
    }
}
