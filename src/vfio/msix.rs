//! A passed-through device's MSI-X vectors.
//!
//! MSI-X is never turned off to grow. On a host that can allocate single vectors (Linux 6.5 and later, most
//! interrupt domains) it is turned on with none. On one that cannot (NORESIZE) the whole table is reserved in
//! the call that turns it on, with no eventfd: no interrupt is requested, no CPU vector taken, and afterwards
//! vectors take eventfds one by one all the same. What an unbound vector is sent waits in the device's own PBA,
//! as the host keeps the entry masked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vmm_sys_util::eventfd::EventFd;

use super::set_irqs::{Index, IrqInfo, Irqs};
use super::{NO_SPACE, VfioError};
use crate::backend::{Backend, BackendError, Capabilities, Growth, Holders};
use crate::delivery::Vector;

/// A passed-through device's MSI-X vectors.
#[derive(Debug)]
pub struct VfioMsix {
    irqs: Irqs,
    capabilities: Capabilities,
    /// Where the device's pending bits are in the descriptor's file.
    pba_file_offset: u64,
    /// How many vectors the host has reserved since MSI-X was turned on.
    reserved: u32,
}

impl VfioMsix {
    /// The vectors of the device behind `device` (a duplicate of its VFIO descriptor), whose pending bit array
    /// is at `pba_file_offset`: its region's offset plus the array's offset into that BAR. Nothing is changed
    /// in the host.
    ///
    /// # Errors
    /// The descriptor is no VFIO PCI device's, or that device has no MSI-X.
    pub fn new(device: File, pba_file_offset: u64) -> Result<Self, VfioError> {
        let irqs = Irqs { device, index: Index::Msix };
        let IrqInfo { vectors, dynamic } = irqs.info().map_err(VfioError::Info)?;
        if vectors == 0 {
            return Err(VfioError::NoVectors);
        }
        let growth = if dynamic { Growth::Dynamic } else { Growth::Reserved };
        let capabilities = Capabilities {
            vectors,
            growth,
            independent: true,
            multi_message: false,
            ims: true,
            cookies: false,
        };
        Ok(Self { irqs, capabilities, pba_file_offset, reserved: 0 })
    }

    /// Turns MSI-X on with as many of `wanted` vectors as the host has interrupts for; answers how many.
    fn reserve(&self, wanted: u32) -> io::Result<u32> {
        match self.irqs.enable_without_eventfds(wanted)? {
            None => Ok(wanted),
            // So many would have fitted a moment ago. If they no longer do, the next try asks again.
            Some(fits) => match self.irqs.enable_without_eventfds(fits.min(wanted))? {
                None => Ok(fits),
                Some(_) => Err(io::Error::from_raw_os_error(NO_SPACE)),
            },
        }
    }
}

impl Backend for VfioMsix {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        let vectors = vectors.min(self.capabilities.vectors);
        let asked = if self.capabilities.growth == Growth::Dynamic { 1 } else { vectors };
        let reserved = self.reserve(asked).map_err(|source| BackendError::Open { asked, source })?;
        self.reserved = if reserved == asked { vectors } else { reserved };
        Ok(())
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        if vector.0 >= self.reserved {
            return Err(BackendError::BeyondReservation { vector, reserved: self.reserved });
        }
        let bound = self.irqs.set_eventfd(vector.0, Some(eventfd));
        bound.map_err(|source| BackendError::Bind { vector, source })
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        let unbound = self.irqs.set_eventfd(vector.0, None);
        unbound.map_err(|source| BackendError::Unbind { vector, source })
    }

    fn close(&mut self) -> Result<(), BackendError> {
        let refused = |source| BackendError::Close { unbound: Vec::new(), source };
        self.irqs.disable().map_err(refused)?;
        self.reserved = 0;
        Ok(())
    }

    /// The kernel keeps an eventfd's context and no descriptor, and drops that too.
    fn holders_after_close(&self) -> Holders {
        Holders::Domain
    }

    fn pending(&mut self, group: u32) -> u64 {
        let mut bits = [0; 8];
        let at = self.pba_file_offset.saturating_add(u64::from(group).saturating_mul(8));
        // A device that cannot be read (it is gone, or in reset) has nothing pending that anyone could get.
        match self.irqs.device.read_exact_at(&mut bits, at) {
            Ok(()) => u64::from_le_bytes(bits),
            Err(_) => 0,
        }
    }
}
