//! The interface to a device, and the eventfd that each of its host vectors signals.
//!
//! VFIO is one backend, and a device model inside the VMM is another. One domain owns a backend, and calls it
//! under the domain's lock. Vectors count from 0, and are below the count that [`Backend::open`] was given.

mod capabilities;
mod stable;

use std::io;
use std::ops::Range;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub use capabilities::{Capabilities, Growth, Unsupported};
pub use stable::{Binding, EventfdSet, StableEventfds};

pub use crate::delivery::Cookie;
use crate::delivery::Vector;

/// A step for a device's vectors that the host refused. The vector is unchanged, and the domain tries the
/// step again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The device's interrupts could not be enabled.
    #[error("the host could not enable {asked} vectors of the device: {source}")]
    Open {
        /// How many vectors were requested.
        asked: u32,
        /// The kernel's error.
        source: io::Error,
    },
    /// The host reserved fewer interrupts than the device has vectors, and this vector has none.
    #[error("the host reserved {reserved} vectors for the device, and none for vector {vector}")]
    BeyondReservation {
        /// The vector, which stays held.
        vector: Vector,
        /// How many vectors the host reserved.
        reserved: u32,
    },
    /// The host refused to bind a vector.
    #[error("the host refused to bind vector {vector}: {source}")]
    Bind {
        /// The vector.
        vector: Vector,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The host refused to unbind a vector.
    #[error("the host refused to unbind vector {vector}: {source}")]
    Unbind {
        /// The vector.
        vector: Vector,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The device's interrupts could not be disabled.
    #[error("the host refused to disable the device's interrupts: {source}")]
    Close {
        /// Vectors that were unbound nevertheless. The others are unchanged. Empty if the host disables all
        /// vectors or none.
        unbound: Vec<Vector>,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The device cannot store cookies.
    #[error("vector {vector} cannot carry a cookie")]
    NoCookies {
        /// The vector.
        vector: Vector,
    },
}

/// Whether the device still has the values that the host programmed into it.
///
/// A device that resets itself (a built-in self test, a firmware reset through its own registers) loses its
/// messages and its enable bit. The host does not notice (Linux commit b8f02af096b1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programming {
    /// The device still has them.
    Kept,
    /// The device has lost them: the host must program it again.
    Lost,
    /// The backend cannot tell.
    Unknown,
}

/// The owner of a vector's eventfd after the backend has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventfdOwner {
    /// Only the domain that made it. Closing the eventfd detaches its irqfd.
    Domain,
    /// Another process or a kernel device may have it open too. Closing the domain's descriptor may then not
    /// detach the irqfd.
    Others,
}

/// A device's host vectors.
///
/// A domain closes the window before it drops the backend. If the host refuses to close it, the backend is
/// dropped with its window open, and its drop must release all host vectors. Closing the last descriptor of a
/// VFIO device does that.
pub trait Backend: Send {
    /// The features of the device and its host. They do not change.
    fn capabilities(&self) -> Capabilities;

    /// Opens the window: the guest has enabled the capability, and the device may signal `vectors` vectors.
    /// None is bound yet.
    ///
    /// If the guest enables more MSI messages later, the domain closes the window and opens it again for all
    /// of them.
    ///
    /// Interrupts meanwhile: an interrupt of an unbound vector waits in the device's own pending bits.
    ///
    /// # Errors
    /// [`BackendError::Open`]: the window stays closed.
    fn open(&mut self, vectors: u32) -> Result<(), BackendError>;

    /// Makes `vector` signal `eventfd`, which may already be an irqfd. Other vectors are not affected.
    ///
    /// Interrupts meanwhile: an interrupt that is pending in the device is signalled at once.
    ///
    /// # Errors
    /// [`BackendError::Bind`] or [`BackendError::BeyondReservation`]: the vector has no eventfd.
    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError>;

    /// Unbinds `vector` from its eventfd, and frees as much of its host interrupt as the host allows. Other
    /// vectors are not affected.
    ///
    /// Interrupts meanwhile: when this returns, no more interrupts are signalled. Later interrupts wait in
    /// the device's own pending bits.
    ///
    /// # Errors
    /// [`BackendError::Unbind`]: the vector keeps its eventfd.
    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError>;

    /// Releases `vector`, which is unbound and which the guest has freed. [`Backend::close`] releases all
    /// vectors. A vector that is unbound only to change its [cookie](Backend::set_cookie) is not released.
    fn release(&mut self, vector: Vector) {
        let _ = vector;
    }

    /// Closes the window: the guest has disabled the capability. Every vector is unbound and released.
    ///
    /// # Errors
    /// [`BackendError::Close`]: the window is still open. The error names the vectors that were unbound
    /// nevertheless.
    fn close(&mut self) -> Result<(), BackendError>;

    /// The owner of the device's eventfds after [`Backend::close`] has returned. A domain that is the only
    /// owner closes all of them at once, instead of detaching them one by one.
    fn eventfd_owner_after_close(&self) -> EventfdOwner {
        EventfdOwner::Others
    }

    /// The device's own pending bits of vectors 64 × `group` to 64 × `group` + 63. Only the bits of unbound
    /// vectors are valid.
    fn pending(&mut self, group: u32) -> u64;

    /// The pending bits of vectors 64 × `group` to 64 × `group` + 63 that end with this process. A snapshot
    /// must contain them. Only the bits of unbound vectors are valid. A real device keeps its own pending
    /// bits, so the default is none.
    fn pending_to_save(&mut self, group: u32) -> u64 {
        let _ = group;
        0
    }

    /// The eventfd for `vector`, which is about to be bound. It must be non-blocking and not a semaphore. The
    /// default makes a new one. A backend for a producer with one stable eventfd per vector (vhost-user,
    /// vdpa, ioeventfd) returns a duplicate of it, as [`StableEventfds`] does.
    ///
    /// # Errors
    /// The process has no descriptor left.
    fn eventfd(&mut self, vector: Vector) -> io::Result<EventFd> {
        let _ = vector;
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
    }

    /// Drops the interrupts of `vectors` that are pending in the backend itself, because the function was
    /// reset. The vectors are unbound, except vectors that the host refused to unbind. A real device's reset
    /// clears its pending bits, so the default does nothing.
    fn clear_pending(&mut self, vectors: Range<u32>) {
        let _ = vectors;
    }

    /// Whether the device still has `vector`'s message as the host programmed it. Unless the answer is
    /// [`Programming::Kept`], the domain unbinds the vector and binds it again.
    ///
    /// The domain asks this of a bound vector in two cases: the guest's driver rewrites the table entry with
    /// the values that it has, or it requests a freed vector again.
    fn vector_programming(&mut self, vector: Vector) -> Programming {
        let _ = vector;
        Programming::Unknown
    }

    /// Whether the device still has its capability enabled. On [`Programming::Lost`] the domain closes the
    /// window and opens it again. A backend that can set the device's enable bit does so here, and answers
    /// [`Programming::Kept`].
    ///
    /// The domain asks this of an open window when the guest's driver sets the enable bit although it is set
    /// already. Keep it cheap: Linux writes Message Control each time that it writes an MSI message.
    fn enable_programming(&mut self) -> Programming {
        Programming::Unknown
    }

    /// Sets the cookie that `vector`'s interrupts carry beside their message, from its next bind on. At first
    /// it is `None`. It stays until the next call, also while the window is closed.
    ///
    /// # Errors
    /// [`BackendError::NoCookies`] if [`Capabilities::cookies`] is false, as for MSI and MSI-X. It is not
    /// tried again.
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
