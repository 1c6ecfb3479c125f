//! All work of a function outside of the guest's accesses, behind one descriptor and one call.
//!
//! The work has four kinds: relayed interrupts, deferred requests of host vectors, steps that the host
//! refused, and freed host vectors whose release delay is over.
//!
//! Owns an epoll descriptor over the function's eventfds and a timer. Invariant: the descriptor is readable
//! while work is due, or becomes readable when the work is due. There is one exception: the next call of the
//! function does the work that a panic in a backend, router or stage left behind.
//!
//! Locking: none of its own. [`Maintenance::run`] takes the domain's lock for at most 16 host vectors at a
//! time. A guest's access therefore waits for at most 16 host vectors.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::read;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::domain::DeviceDomain;
use crate::function::InterruptFunction;
use crate::registers::Registers;

/// Where host vectors are requested when the guest first unmasks their vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// In the guest's access, which waits for the host.
    InAccess,
    /// In [`Maintenance::run`]. The guest's access does not wait. Interrupts meanwhile wait in the device's
    /// own pending bits, and are delivered when the vector is bound. MSI vectors are requested in the access
    /// nevertheless: see [`Capabilities::independent`](crate::backend::Capabilities::independent).
    Deferred,
}

/// The maintenance of one function.
///
/// Watch its descriptor ([`AsFd`], [`AsRawFd`]) for readability, level-triggered, and call
/// [`Maintenance::run`] when it is readable. [`MaintenanceSubscriber`](crate::events::MaintenanceSubscriber)
/// does so with `event-manager`.
///
/// From its creation on, [`Maintenance::run`] delivers interrupts whose message has no route. They wait
/// until it is called.
#[must_use = "interrupts wait while nothing runs the function's maintenance"]
pub struct Maintenance {
    function: Arc<dyn Maintained>,
    ready: OwnedFd,
    timer: OwnedFd,
    /// Kept open while the epoll descriptor watches them.
    _watched: Vec<Arc<OwnedFd>>,
}

impl Maintenance {
    /// The maintenance of `function`. Make one for each function. If there are two for the same function,
    /// watch both.
    ///
    /// # Errors
    /// The process has no descriptor left, or the host refuses to watch one.
    pub fn new<C>(function: Arc<InterruptFunction<C, DeviceDomain>>, requests: Requests) -> io::Result<Self>
    where
        C: Registers + 'static,
    {
        let mut watched = vec![function.relay_fd()?, function.maintenance_fd()?];
        if requests == Requests::Deferred {
            watched.push(function.deferred_bind_fd()?);
        }
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        for descriptor in watched.iter().map(|descriptor| descriptor.as_fd()).chain([timer.as_fd()]) {
            epoll::add(&ready, descriptor, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(Self { function, ready, timer, _watched: watched })
    }

    /// Does the work that is due, and sets the timer for the rest. Any thread may call it at any time. One
    /// call requests at most 256 host vectors, and its thread waits for the host meanwhile.
    ///
    /// Interrupts meanwhile: none is lost, and none is delivered for a masked vector.
    pub fn run(&self) {
        // It fails if another descriptor than the timer is readable.
        let _ = read(&self.timer, &mut [0; 8]);
        let wait = self.function.maintain(Instant::now());
        // A timer value of 0 would disarm the timer.
        let value = wait.map_or(Duration::ZERO, |wait| wait.max(Duration::from_nanos(1)));
        let value = Timespec::try_from(value).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
        // The kernel refuses only invalid times.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
    }
}

impl AsFd for Maintenance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl AsRawFd for Maintenance {
    fn as_raw_fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }
}

impl fmt::Debug for Maintenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintenance").field("descriptor", &self.as_raw_fd()).finish_non_exhaustive()
    }
}

/// A function with any store.
trait Maintained: Send + Sync {
    fn maintain(&self, now: Instant) -> Option<Duration>;
}

impl<C: Registers> Maintained for InterruptFunction<C, DeviceDomain> {
    fn maintain(&self, now: Instant) -> Option<Duration> {
        self.maintain(now)
    }
}
