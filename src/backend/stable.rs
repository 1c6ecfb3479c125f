//! A backend for producers that signal one stable eventfd a vector: vhost-user, vdpa, ioeventfd.
//!
//! [`EventfdSet`] owns the eventfds. The embedder hands them to the producer once, at activation. [`StableEventfds`] lends a
//! duplicate of each to the domain while the guest uses the vector. Nothing changes for the producer, which may signal at any
//! time.
//!
//! Invariant: an eventfd's counter is the vector's only pending bit here, and only a delivery or a reset clears it. An interrupt of an
//! unbound vector therefore waits in its eventfd, and is delivered once when the vector is bound.
//!
//! Locking: none of its own. A domain calls the backend under the domain's lock. The set has no mutable state: any thread
//! may ask it.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Backend, BackendError, Capabilities, EventfdOwner, Programming};
use crate::delivery::Vector;
use crate::signalled::{borrow, signalled};

/// EINVAL.
const INVALID: i32 = 22;

/// The eventfds of a producer, one a vector. Clones are the same eventfds.
///
/// It costs one descriptor a vector for as long as it lives, whether the guest uses the vector or not: 2048 for a device of
/// 2048 vectors. Each vector that has a host vector costs one more.
#[derive(Clone, Debug)]
pub struct EventfdSet(Arc<[EventFd]>);

impl EventfdSet {
    /// Makes an eventfd for each of `vectors` vectors.
    ///
    /// # Errors
    /// There are not enough descriptors.
    pub fn new(vectors: u32) -> io::Result<Self> {
        (0..vectors).map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)).collect::<io::Result<_>>().map(Self)
    }

    /// Takes eventfds that were made elsewhere: the first one is vector 0's. None may be a semaphore.
    ///
    /// # Errors
    /// One of them is blocking (`InvalidInput`): reading it empty would block the domain.
    pub fn from_eventfds(eventfds: Vec<EventFd>) -> io::Result<Self> {
        for eventfd in &eventfds {
            if !fcntl_getfl(borrow(eventfd))?.contains(OFlags::NONBLOCK) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        Ok(Self(eventfds.into()))
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u32 {
        self.0.len() as u32
    }

    /// The eventfd that the producer signals for `vector`; `None` beyond the last vector.
    pub fn get(&self, vector: Vector) -> Option<&EventFd> {
        self.0.get(vector.index())
    }

    /// Which of vectors 64 × `group` to 64 × `group` + 63 hold a signal, the lowest vector in the lowest bit. It polls and
    /// takes nothing. The bit of a vector that is attached to an irqfd means nothing: its eventfd may show a count that was
    /// delivered already.
    pub fn waiting(&self, group: u32) -> u64 {
        let waiting = signalled(self.group(group));
        waiting
            .zip(0u32..)
            .filter(|(waits, _)| *waits)
            .fold(0, |bits, (_, bit)| bits | 1u64.wrapping_shl(bit))
    }

    /// Reads the eventfds of `vectors` empty. A signal that the producer sends meanwhile may stay.
    pub fn clear(&self, vectors: Range<u32>) {
        let last = (vectors.end as usize).min(self.0.len());
        let eventfds = self.0.get(vectors.start as usize..last).unwrap_or_default();
        for (eventfd, _) in eventfds.iter().zip(signalled(eventfds)).filter(|(_, waits)| *waits) {
            // It fails where somebody else has read it just now.
            let _ = eventfd.read();
        }
    }

    fn group(&self, group: u32) -> &[EventFd] {
        let first = (group as usize).saturating_mul(64);
        let range: Range<usize> = first..first.saturating_add(64).min(self.0.len());
        self.0.get(range).unwrap_or_default()
    }
}

/// A change of one vector of [`StableEventfds`], as its hook is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Signals of the vector are delivered, or wait while the guest masks it.
    Bound,
    /// The guest does not use the vector. Signals wait in its eventfd.
    Unbound,
}

type Hook = Box<dyn FnMut(Vector, Binding) -> io::Result<()> + Send>;

/// A backend over the stable eventfds of a producer.
///
/// Others may have the eventfds open after it has closed, so a domain detaches them one by one.
pub struct StableEventfds {
    eventfds: EventfdSet,
    bound: BTreeSet<Vector>,
    hook: Option<Hook>,
}

impl StableEventfds {
    /// A backend with as many vectors as there are eventfds. Keep a clone of the set for the producer, and to ask
    /// [`EventfdSet::waiting`].
    pub fn new(eventfds: EventfdSet) -> Self {
        Self { eventfds, bound: BTreeSet::new(), hook: None }
    }

    /// Calls `hook` when a vector is bound and unbound. It tells a producer which vectors are in use: vhost, for example, masks a ring's
    /// call. Other producers need no hook.
    ///
    /// The hook runs under the domain's lock and must not call the function. An error that it returns is the backend's: the
    /// vector stays as it was, and the domain tries again.
    #[must_use]
    pub fn with_hook(self, hook: impl FnMut(Vector, Binding) -> io::Result<()> + Send + 'static) -> Self {
        Self { hook: Some(Box::new(hook)), ..self }
    }

    fn tell(&mut self, vector: Vector, binding: Binding) -> io::Result<()> {
        self.hook.as_mut().map_or(Ok(()), |hook| hook(vector, binding))
    }
}

impl fmt::Debug for StableEventfds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StableEventfds")
            .field("vectors", &self.eventfds.vectors())
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

impl Backend for StableEventfds {
    fn capabilities(&self) -> Capabilities {
        Capabilities { vectors: self.eventfds.vectors(), cookies: false, ..Capabilities::UNLIMITED }
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        if vectors > self.eventfds.vectors() {
            let source = io::Error::from_raw_os_error(INVALID);
            return Err(BackendError::Open { asked: vectors, source });
        }
        Ok(())
    }

    /// `eventfd` is the duplicate that [`Backend::eventfd`] gave, so the producer signals it already.
    fn bind(&mut self, vector: Vector, _eventfd: &EventFd) -> Result<(), BackendError> {
        let reserved = self.eventfds.vectors();
        if vector.0 >= reserved {
            return Err(BackendError::BeyondReservation { vector, reserved });
        }
        self.tell(vector, Binding::Bound).map_err(|source| BackendError::Bind { vector, source })?;
        self.bound.insert(vector);
        Ok(())
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.tell(vector, Binding::Unbound).map_err(|source| BackendError::Unbind { vector, source })?;
        self.bound.remove(&vector);
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let mut unbound = Vec::new();
        while let Some(vector) = self.bound.first().copied() {
            if let Err(source) = self.tell(vector, Binding::Unbound) {
                return Err(BackendError::Close { unbound, source });
            }
            self.bound.remove(&vector);
            unbound.push(vector);
        }
        Ok(())
    }

    /// The producer has them open.
    fn eventfd_owner_after_close(&self) -> EventfdOwner {
        EventfdOwner::Others
    }

    fn pending(&mut self, group: u32) -> u64 {
        self.eventfds.waiting(group)
    }

    fn pending_to_save(&mut self, group: u32) -> u64 {
        self.eventfds.waiting(group)
    }

    fn eventfd(&mut self, vector: Vector) -> io::Result<EventFd> {
        let eventfd = self.eventfds.get(vector);
        eventfd.ok_or_else(|| io::ErrorKind::InvalidInput.into()).and_then(EventFd::try_clone)
    }

    fn clear_pending(&mut self, vectors: Range<u32>) {
        self.eventfds.clear(vectors);
    }

    /// The host programs nothing into a producer, so nothing can be lost.
    fn vector_programming(&mut self, _vector: Vector) -> Programming {
        Programming::Kept
    }

    fn enable_programming(&mut self) -> Programming {
        Programming::Kept
    }
}

#[cfg(test)]
mod tests;
