//! A passed-through device's MSI vectors.
//!
//! The host programs all of them at once when MSI is turned on, so they are reserved together, all or nothing,
//! with no eventfd; each is requested when the guest first uses it. What an unbound vector is sent waits where
//! the device has pending bits; a device without mask bits cannot wait, and a driver does not let it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vmm_sys_util::eventfd::EventFd;

use super::set_irqs::{Index, Irqs};
use super::{NO_SPACE, VfioError};
use crate::backend::{Backend, BackendError, Capabilities, Growth, Holders};
use crate::delivery::Vector;
use crate::msi::MessageCount;

/// A passed-through device's MSI vectors.
#[derive(Debug)]
pub struct VfioMsi {
    irqs: Irqs,
    messages: MessageCount,
    /// Where the device's Pending Bits register is in the descriptor's file, if it has one.
    pending_file_offset: Option<u64>,
}

impl VfioMsi {
    /// The vectors of the device behind `device` (a duplicate of its VFIO descriptor), of which the host can
    /// give `messages` at once: less than the device asks for where it has no interrupt remapping. That is tried
    /// here, by turning MSI on and off.
    ///
    /// `pending_file_offset` says where the device's own Pending Bits are, if it has them.
    ///
    /// # Errors
    /// The descriptor is no VFIO PCI device's, or that device has no MSI, or the host has no interrupt for it.
    pub fn new(device: File, pending_file_offset: Option<u64>) -> Result<Self, VfioError> {
        let irqs = Irqs { device, index: Index::Msi };
        let asked = irqs.info().map_err(VfioError::Info)?.vectors;
        if asked == 0 {
            return Err(VfioError::NoVectors);
        }
        let fits = irqs.enable_without_eventfds(asked).map_err(VfioError::Probe)?;
        if fits.is_none() {
            irqs.disable().map_err(VfioError::Probe)?;
        }
        let given = fits.unwrap_or(asked);
        let power_of_two = given.checked_ilog2().map_or(0, |log2| 1u32.wrapping_shl(log2));
        let messages = MessageCount::new(power_of_two).ok_or(VfioError::NoVectors)?;
        Ok(Self { irqs, messages, pending_file_offset })
    }

    /// How many vectors the host gives at once: what a guest may be told.
    pub fn messages(&self) -> MessageCount {
        self.messages
    }
}

impl Backend for VfioMsi {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vectors: self.messages.get(),
            growth: Growth::Reserved,
            independent: false,
            multi_message: true,
            ims: false,
            cookies: false,
        }
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        let refused = |source| BackendError::Open { asked: vectors, source };
        match self.irqs.enable_without_eventfds(vectors).map_err(refused)? {
            None => Ok(()),
            Some(_) => Err(refused(io::Error::from_raw_os_error(NO_SPACE))),
        }
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        let bound = self.irqs.set_eventfd(vector.0, Some(eventfd));
        bound.map_err(|source| BackendError::Bind { vector, source })
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        let unbound = self.irqs.set_eventfd(vector.0, None);
        unbound.map_err(|source| BackendError::Unbind { vector, source })
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let refused = |source| BackendError::Close { unbound: Vec::new(), source };
        self.irqs.disable().map_err(refused)
    }

    /// The kernel keeps an eventfd's context and no descriptor, and drops that too.
    fn holders_after_close(&self) -> Holders {
        Holders::Domain
    }

    fn pending(&mut self, group: u32) -> u64 {
        let Some(at) = self.pending_file_offset.filter(|_| group == 0) else { return 0 };
        let mut bits = [0; 4];
        // A device that cannot be read has nothing pending that anyone could get.
        self.irqs.device.read_exact_at(&mut bits, at).map_or(0, |()| u32::from_le_bytes(bits).into())
    }
}
