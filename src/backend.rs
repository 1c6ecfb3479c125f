//! The seam towards a device: which eventfd each of its host vectors fires.
//!
//! VFIO is one backend, a device model inside the VMM another. A backend is owned by one domain, which calls
//! it under its lock; vectors count from 0 and stay below what [`Backend::open`] was asked for.

mod capabilities;
mod stable;

use std::io;
use std::ops::Range;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub use capabilities::{Capabilities, Growth, Unsupported};
pub use stable::{Binding, EventfdSet, StableEventfds};

pub use crate::delivery::Cookie;
use crate::delivery::Vector;

/// What a host refused for a device's vectors. The vector stays as it was, and the step is tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The device's interrupts could not be turned on.
    #[error("no interrupt of the device could be reserved ({asked} asked for): {source}")]
    Open {
        /// Vectors that were asked for.
        asked: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The host had fewer interrupts than the device has vectors, and this vector is beyond them.
    #[error("the host reserved {reserved} vectors for the device: none for vector {vector}")]
    BeyondReservation {
        /// The vector that stays held.
        vector: Vector,
        /// How many it has.
        reserved: u32,
    },
    /// A vector could not be given its eventfd.
    #[error("the host refused vector {vector}: {source}")]
    Bind {
        /// The vector.
        vector: Vector,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A vector's eventfd could not be taken away.
    #[error("the host did not give vector {vector} back: {source}")]
    Unbind {
        /// The vector.
        vector: Vector,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The device's interrupts could not be turned off.
    #[error("the host did not turn the device's interrupts off: {source}")]
    Close {
        /// Vectors that had an eventfd and have none any more; the rest are as before. Empty where the host turns
        /// all off or none.
        unbound: Vec<Vector>,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The device has no place for a cookie.
    #[error("vector {vector} cannot carry a cookie")]
    NoCookies {
        /// The vector.
        vector: Vector,
    },
}

/// Whether a device still has what the host programmed into it. A device that resets itself (a built-in self test, a firmware
/// reset through its own registers) forgets the messages and the enable bit, and the host does not notice (Linux commit
/// b8f02af096b1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programming {
    /// The device has it.
    Kept,
    /// The device has lost it: the host must program it again.
    Lost,
    /// The backend cannot tell.
    Unknown,
}

/// Who may have eventfds open that a backend has let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventfdOwner {
    /// The domain that made them, alone: closing one ends it.
    Domain,
    /// Others too, such as another process: closing one may end nothing.
    Others,
}

/// A device's host vectors.
///
/// A domain that goes closes the window first. Where the host refuses even that, the backend is dropped with its window
/// open, and what it still has of the host must go with it, as everything does with the last descriptor of a VFIO
/// device.
pub trait Backend: Send {
    /// What the device and its host can do. It stays the same for the backend's life.
    fn capabilities(&self) -> Capabilities;

    /// The guest turned the capability on: the device may signal up to `vectors` vectors. None is requested of
    /// the host yet, and an interrupt that the device raises meanwhile waits in its own pending bits.
    ///
    /// A guest that has MSI on and gives the function more messages has it closed and opened again, for all of them.
    ///
    /// # Errors
    /// [`BackendError::Open`]; nothing is turned on then.
    fn open(&mut self, vectors: u32) -> Result<(), BackendError>;

    /// From now on `vector` signals `eventfd`, which may be an irqfd already, beginning with what the device has pending
    /// for it. Other vectors are not disturbed.
    ///
    /// # Errors
    /// [`BackendError::Bind`] or [`BackendError::BeyondReservation`]; the vector has no eventfd then.
    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError>;

    /// `vector` signals nothing once this has returned; what the device raises waits in its own pending bits.
    /// As much of the vector as the host can take is given back. Other vectors are not disturbed.
    ///
    /// # Errors
    /// [`BackendError::Unbind`]; the vector keeps its eventfd then.
    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError>;

    /// The guest has freed `vector`, which is unbound: what was set aside for it may go back. [`Backend::close`] does so for all.
    /// A vector that is unbound only to be bound again, with another [cookie](Backend::set_cookie), is not released meanwhile.
    fn release(&mut self, vector: Vector) {
        let _ = vector;
    }

    /// The guest turned the capability off: every vector is unbound, and everything given back to the host.
    ///
    /// # Errors
    /// [`BackendError::Close`], which names what is unbound all the same; the window is still open then.
    fn close(&mut self) -> Result<(), BackendError>;

    /// Who may have the device's eventfds open once [`Backend::close`] has returned. Where it is the domain alone, it
    /// ends them all at once instead of one by one.
    fn eventfd_owner_after_close(&self) -> EventfdOwner {
        EventfdOwner::Others
    }

    /// The pending bits that the device itself has for vectors 64 × `group` to 64 × `group` + 63. Only those of
    /// vectors without an eventfd mean anything.
    fn pending(&mut self, group: u32) -> u64;

    /// Of the pending bits of vectors 64 × `group` to 64 × `group` + 63, those that go with this process, and that a snapshot of
    /// the function must have. Only those of vectors that are not bound mean anything. A real device keeps its own pending bits,
    /// so the default is none.
    fn pending_to_save(&mut self, group: u32) -> u64 {
        let _ = group;
        0
    }

    /// The eventfd for `vector`, about to be bound. The default makes a new one. A producer that hands out one stable eventfd a
    /// vector (vhost-user, vdpa, ioeventfd) returns a duplicate of that, as [`StableEventfds`] does.
    ///
    /// The eventfd is non-blocking and no semaphore.
    ///
    /// # Errors
    /// No descriptor is available.
    fn eventfd(&mut self, vector: Vector) -> io::Result<EventFd> {
        let _ = vector;
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
    }

    /// Forgets what is pending in the backend itself for `vectors`: the function was reset. None of them is bound, except those
    /// that the host has refused to unbind. A real device forgets by its own reset, so the default does nothing.
    fn clear_pending(&mut self, vectors: Range<u32>) {
        let _ = vectors;
    }

    /// Whether the device still has `vector`'s message as the host programmed it. The domain asks this of a bound vector only
    /// when the guest's driver rewrites the vector's entry with the values that it has, or requests a freed vector again. It
    /// unbinds the vector and binds it again unless the answer is [`Programming::Kept`].
    fn vector_programming(&mut self, vector: Vector) -> Programming {
        let _ = vector;
        Programming::Unknown
    }

    /// Whether the device still has its capability enabled. The domain asks this of an open window when the guest's driver writes
    /// Message Control with the enable bit set although it is set already. A backend that can set the device's bit again does
    /// so here, and answers [`Programming::Kept`]. On [`Programming::Lost`] the domain closes the window and opens it again.
    ///
    /// Keep it cheap: Linux writes Message Control each time that it writes an MSI message.
    fn enable_programming(&mut self) -> Programming {
        Programming::Unknown
    }

    /// What `vector`'s interrupts carry beside their message, from its next eventfd on; `None` for nothing, as at
    /// first. It stays until the next call, also while the window is closed.
    ///
    /// # Errors
    /// [`BackendError::NoCookies`] where [`Capabilities::cookies`] says that there is no place for one, as in MSI and MSI-X:
    /// it is not tried again.
    fn set_cookie(&mut self, vector: Vector, cookie: Option<Cookie>) -> Result<(), BackendError> {
        match cookie {
            None => Ok(()),
            Some(_) => Err(BackendError::NoCookies { vector }),
        }
    }
}

/// A backend chosen while the program runs.
impl<B: Backend + ?Sized> Backend for Box<B> {
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        (**self).open(vectors)
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        (**self).bind(vector, eventfd)
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        (**self).unbind(vector)
    }

    fn release(&mut self, vector: Vector) {
        (**self).release(vector);
    }

    fn close(&mut self) -> Result<(), BackendError> {
        (**self).close()
    }

    fn eventfd_owner_after_close(&self) -> EventfdOwner {
        (**self).eventfd_owner_after_close()
    }

    fn pending(&mut self, group: u32) -> u64 {
        (**self).pending(group)
    }

    fn pending_to_save(&mut self, group: u32) -> u64 {
        (**self).pending_to_save(group)
    }

    fn eventfd(&mut self, vector: Vector) -> io::Result<EventFd> {
        (**self).eventfd(vector)
    }

    fn clear_pending(&mut self, vectors: Range<u32>) {
        (**self).clear_pending(vectors);
    }

    fn vector_programming(&mut self, vector: Vector) -> Programming {
        (**self).vector_programming(vector)
    }

    fn enable_programming(&mut self) -> Programming {
        (**self).enable_programming()
    }

    fn set_cookie(&mut self, vector: Vector, cookie: Option<Cookie>) -> Result<(), BackendError> {
        (**self).set_cookie(vector, cookie)
    }
}
