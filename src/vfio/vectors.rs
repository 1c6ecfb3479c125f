//! One interrupt index over VFIO, for MSI and MSI-X. It is enabled without eventfds, and its vectors then get
//! eventfds one by one.
//!
//! Invariant: `usable` is 0 exactly while the index is disabled, and no single-vector call reaches the kernel
//! for a vector beyond it. Otherwise SET_IRQS with an eventfd, or with fd -1, would enable a disabled index.
//! A call is for one vector, because the kernel detaches a whole block if one vector of it fails.
//!
//! Locking: none of its own. A domain calls its owner under the domain's lock.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::eventfd::EventFd;

use super::set_irqs::{Index, IrqCalls, NO_FD};
use crate::backend::BackendError;
use crate::delivery::Vector;

/// ENOSPC.
const NO_SPACE: i32 = 28;

/// The methods of [`Backend`](crate::Backend) that MSI and MSI-X share, for a backend with a field `vectors`
/// of type [`Vectors`].
macro_rules! backend_methods {
    () => {
        fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
            self.vectors.bind(vector, eventfd)
        }

        fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
            self.vectors.unbind(vector)
        }

        fn close(&mut self) -> Result<(), BackendError> {
            self.vectors.close()
        }

        /// The kernel keeps an eventfd's context but no descriptor, and drops the context when the index is
        /// disabled.
        fn eventfd_owner_after_close(&self) -> EventfdOwner {
            EventfdOwner::Domain
        }
    };
}

pub(super) use backend_methods;

/// The vectors of one interrupt index.
#[derive(Debug)]
pub(super) struct Vectors {
    pub(super) calls: Box<dyn IrqCalls>,
    index: Index,
    /// Vectors below this one may be bound.
    usable: u32,
}

/// Enables an index with host interrupts for the first `vectors` vectors, none of which is bound.
///
/// `Ok(Some(n))`: the host has interrupts for only `n` vectors, and the index is still disabled.
pub(super) fn enable(calls: &dyn IrqCalls, index: Index, vectors: u32) -> io::Result<Option<u32>> {
    let fits = calls.set_eventfds(index, 0, &vec![NO_FD; vectors as usize])?;
    Ok((fits > 0).then_some(fits))
}

/// The error if the host has fewer interrupts than requested.
fn no_space() -> io::Error {
    io::Error::from_raw_os_error(NO_SPACE)
}

impl Vectors {
    pub(super) fn new(calls: Box<dyn IrqCalls>, index: Index) -> Self {
        Self { calls, index, usable: 0 }
    }

    /// Enables the index with host interrupts for all of `vectors` vectors, or not at all.
    pub(super) fn open_all(&mut self, vectors: u32) -> io::Result<()> {
        self.enable(vectors)?.map_or(Ok(()), |_| Err(no_space()))?;
        self.usable = vectors;
        Ok(())
    }

    /// Enables the index with host interrupts for `vectors` vectors, or for as many as the host has. It fails
    /// if the host has fewer at the second call than it returned from the first. The caller then tries again
    /// later.
    pub(super) fn open_some(&mut self, vectors: u32) -> io::Result<()> {
        match self.enable(vectors)? {
            None => self.usable = vectors,
            Some(fits) => self.open_all(fits.min(vectors))?,
        }
        Ok(())
    }

    /// Enables the index with a host interrupt for vector 0. The host allocates each of the other vectors
    /// when it is bound.
    pub(super) fn open_dynamic(&mut self, vectors: u32) -> io::Result<()> {
        self.open_all(1)?;
        self.usable = vectors;
        Ok(())
    }

    fn enable(&self, vectors: u32) -> io::Result<Option<u32>> {
        enable(&*self.calls, self.index, vectors)
    }

    /// See [`Backend::bind`](crate::Backend::bind).
    pub(super) fn bind(&self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        if vector.0 >= self.usable {
            return Err(BackendError::BeyondReservation { vector, reserved: self.usable });
        }
        let bound = self.set_eventfd(vector, eventfd.as_raw_fd());
        bound.map_err(|source| BackendError::Bind { vector, source })
    }

    /// See [`Backend::unbind`](crate::Backend::unbind).
    pub(super) fn unbind(&self, vector: Vector) -> Result<(), BackendError> {
        if vector.0 >= self.usable {
            // It has no eventfd.
            return Ok(());
        }
        let unbound = self.set_eventfd(vector, NO_FD);
        unbound.map_err(|source| BackendError::Unbind { vector, source })
    }

    fn set_eventfd(&self, vector: Vector, fd: RawFd) -> io::Result<()> {
        match self.calls.set_eventfds(self.index, vector.0, &[fd])? {
            0 => Ok(()),
            // The kernel returns a count only if the index was disabled. It is then still disabled.
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Disables the index: the host frees all of its interrupts.
    pub(super) fn close(&mut self) -> Result<(), BackendError> {
        if self.usable == 0 {
            return Ok(());
        }
        let refused = |source| BackendError::Close { unbound: Vec::new(), source };
        self.calls.disable(self.index).map_err(refused)?;
        self.usable = 0;
        Ok(())
    }

    /// How many vectors may be bound.
    pub(super) fn usable(&self) -> u32 {
        self.usable
    }

    /// Reads a little-endian register of the device. `None` if the device does not answer.
    pub(super) fn read<const BYTES: usize>(&self, file_offset: u64) -> Option<[u8; BYTES]> {
        let mut bytes = [0; BYTES];
        self.calls.read(file_offset, &mut bytes).ok().map(|()| bytes)
    }
}
