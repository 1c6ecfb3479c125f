//! A backend for producers that signal one stable eventfd per vector: vhost-user, vdpa, ioeventfd.
//!
//! [`EventfdSet`] owns the eventfds. The embedder passes them to the producer once, at activation.
//! [`StableEventfds`] gives the domain a duplicate of an eventfd while the guest uses its vector. The
//! producer notices no difference, and may signal at any time.
//!
//! Invariant: an eventfd's counter is the vector's only pending bit in this backend, and only a delivery or a
//! reset clears it. An interrupt of an unbound vector therefore waits in its eventfd, and is delivered once
//! when the vector is bound.
//!
//! Locking: none of its own. A domain calls the backend under the domain's lock. The set has no mutable
//! state, so any thread may use it.

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

/// The eventfds of a producer, one per vector. Clones share the eventfds.
///
/// The set costs one descriptor per vector while it lives, also for unused vectors: 2048 for a device of 2048
/// vectors. Each vector with a host vector costs one more.
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

    /// Takes eventfds that were made elsewhere, in the order of their vectors. None may be a semaphore.
    ///
    /// # Errors
    /// One of them is blocking (`InvalidInput`). Reading it while it is empty would block the domain.
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

    /// The eventfd that the producer signals for `vector`, or `None` beyond the last vector.
    pub fn get(&self, vector: Vector) -> Option<&EventFd> {
        self.0.get(vector.index())
    }

    /// The vectors of 64 × `group` to 64 × `group` + 63 whose eventfds hold a signal, the lowest vector in
    /// the lowest bit. It polls, and clears nothing. The bit of an attached vector has no meaning, because
    /// its eventfd may show a count that has been delivered.
    pub fn waiting(&self, group: u32) -> u64 {
        let waiting = signalled(self.group(group));
        waiting
            .zip(0u32..)
            .filter(|(is_signalled, _)| *is_signalled)
            .fold(0, |bits, (_, bit)| bits | 1u64.wrapping_shl(bit))
    }

    /// Clears the eventfds of `vectors`. A concurrent signal of the producer may remain.
    pub fn clear(&self, vectors: Range<u32>) {
        let last = (vectors.end as usize).min(self.0.len());
        let eventfds = self.0.get(vectors.start as usize..last).unwrap_or_default();
        for (eventfd, _) in eventfds.iter().zip(signalled(eventfds)).filter(|(_, is_signalled)| *is_signalled)
        {
            // It fails only if another thread has just read it.
            let _ = eventfd.read();
        }
    }

    fn group(&self, group: u32) -> &[EventFd] {
        let first = (group as usize).saturating_mul(64);
        let range: Range<usize> = first..first.saturating_add(64).min(self.0.len());
        self.0.get(range).unwrap_or_default()
    }
}

/// A change of one vector of [`StableEventfds`], as passed to its hook.
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
/// Other processes may have the eventfds open after it has closed, so a domain detaches them one by one.
pub struct StableEventfds {
    eventfds: EventfdSet,
    bound: BTreeSet<Vector>,
    hook: Option<Hook>,
}

impl StableEventfds {
    /// A backend with one vector per eventfd. Keep a clone of the set for the producer and for
    /// [`EventfdSet::waiting`].
    pub fn new(eventfds: EventfdSet) -> Self {
        Self { eventfds, bound: BTreeSet::new(), hook: None }
    }

    /// Calls `hook` when a vector is bound and unbound, to tell a producer which vectors are in use. With
    /// vhost, for example, the hook masks a ring's call. Other producers need no hook.
    ///
    /// The hook runs under the domain's lock, and must not call the function. If it returns an error, the
    /// vector is unchanged, and the domain tries again.
    #[must_use]
    pub fn with_hook(self, hook: impl FnMut(Vector, Binding) -> io::Result<()> + Send + 'static) -> Self {
        Self { hook: Some(Box::new(hook)), ..self }
    }

    fn call_hook(&mut self, vector: Vector, binding: Binding) -> io::Result<()> {
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

    /// `eventfd` is the duplicate that [`Backend::eventfd`] returned, so the producer already signals it.
    fn bind(&mut self, vector: Vector, _eventfd: &EventFd) -> Result<(), BackendError> {
        let reserved = self.eventfds.vectors();
        if vector.0 >= reserved {
            return Err(BackendError::BeyondReservation { vector, reserved });
        }
        self.call_hook(vector, Binding::Bound).map_err(|source| BackendError::Bind { vector, source })?;
        self.bound.insert(vector);
        Ok(())
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.call_hook(vector, Binding::Unbound).map_err(|source| BackendError::Unbind { vector, source })?;
        self.bound.remove(&vector);
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let mut unbound = Vec::new();
        while let Some(vector) = self.bound.first().copied() {
            if let Err(source) = self.call_hook(vector, Binding::Unbound) {
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
