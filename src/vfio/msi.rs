//! A passed-through device's MSI vectors.
//!
//! The host programs all of them at once when MSI is enabled. They are therefore reserved together, all or
//! nothing, and without eventfds. Each is bound when the guest first uses it. An interrupt for an unbound
//! vector waits in the device's pending bits. A device without mask bits cannot hold it back. Drivers avoid
//! that case: they request the interrupt before they enable its source.
//!
//! Invariant: MSI changes in the host only in `open`, `bind`, `unbind`, `close` and
//! [`VfioMsi::probe_messages`]. Locking: none of its own. A domain calls it under the domain's lock.

use std::fs::File;

use vmm_sys_util::eventfd::EventFd;

use super::VfioError;
use super::set_irqs::{Index, IrqCalls};
use super::vectors::{Vectors, backend_methods, enable};
use crate::backend::{Backend, BackendError, Capabilities, EventfdOwner, Growth, Programming};
use crate::delivery::Vector;
use crate::msi::{MessageControl, MessageCount};

/// A passed-through device's MSI vectors.
///
/// It cannot tell whether the device still has MSI enabled: VFIO answers reads of the MSI flags from its own
/// copy (Linux vfio_pci_config.c, `init_pci_cap_msi_perm`). It can write them: see
/// [`VfioMsi::with_message_control`].
#[derive(Debug)]
pub struct VfioMsi {
    vectors: Vectors,
    messages: MessageCount,
    pending_file_offset: Option<u64>,
    control_file_offset: Option<u64>,
}

impl VfioMsi {
    /// A backend for `messages` MSI vectors of the device behind `device`, a duplicate of its VFIO
    /// descriptor. It changes nothing in the host. If the host later has too few interrupts, opening fails
    /// with ENOSPC, and the domain tries again: see [`VfioMsi::probe_messages`].
    ///
    /// `pending_file_offset` is the offset of the device's Pending Bits register in the descriptor's file, if
    /// it has one: the offset of the configuration region plus the register's offset in configuration space.
    ///
    /// # Errors
    /// The descriptor is not a VFIO PCI device's, or the device has no MSI or fewer vectors.
    pub fn new(
        device: File,
        messages: MessageCount,
        pending_file_offset: Option<u64>,
    ) -> Result<Self, VfioError> {
        Self::with_calls(Box::new(device), messages, pending_file_offset)
    }

    fn with_calls(
        calls: Box<dyn IrqCalls>,
        messages: MessageCount,
        pending_file_offset: Option<u64>,
    ) -> Result<Self, VfioError> {
        let asked = asked(&*calls)?;
        if messages > asked {
            return Err(VfioError::TooManyMessages { messages: messages.get(), asked: asked.get() });
        }
        Ok(Self {
            vectors: Vectors::new(calls, Index::Msi),
            messages,
            pending_file_offset,
            control_file_offset: None,
        })
    }

    /// Makes the backend set the device's enable bit again when the guest's driver does. A device that resets
    /// itself may have cleared it. `file_offset` is the offset of Message Control in the descriptor's file:
    /// the offset of the configuration region plus the register's. VFIO passes the write on to the device
    /// while MSI is enabled in the host.
    #[must_use]
    pub fn with_message_control(self, file_offset: u64) -> Self {
        Self { control_file_offset: Some(file_offset), ..self }
    }

    /// How many messages the device behind this VFIO descriptor supports. Nothing changes in the host.
    ///
    /// # Errors
    /// The descriptor is not a VFIO PCI device's, or the device has no MSI.
    pub fn asked(device: &File) -> Result<MessageCount, VfioError> {
        asked(device)
    }

    /// How many messages the host can give the device at this moment. It may be fewer than the device
    /// supports, for example on an x86 host without interrupt remapping. Do not show a guest more: its driver
    /// would get no interrupts.
    ///
    /// This enables MSI in the host and disables it again, and the device sees both. Call it before the guest
    /// runs, while INTx, MSI and MSI-X are disabled. If INTx or MSI-X is enabled, the kernel refuses. If MSI
    /// is enabled, this disables it.
    ///
    /// # Errors
    /// The descriptor is not a VFIO PCI device's, the device has no MSI, or the host has no interrupt for it.
    pub fn probe_messages(device: &File) -> Result<MessageCount, VfioError> {
        probe_messages(device)
    }

    /// The number of vectors. A guest may be shown as many.
    pub fn messages(&self) -> MessageCount {
        self.messages
    }
}

fn asked(calls: &dyn IrqCalls) -> Result<MessageCount, VfioError> {
    let info = calls.info(Index::Msi).map_err(VfioError::Info)?;
    at_most(info.vectors).ok_or(VfioError::NoVectors)
}

fn probe_messages(calls: &dyn IrqCalls) -> Result<MessageCount, VfioError> {
    let asked = asked(calls)?;
    match enable(calls, Index::Msi, asked.get()).map_err(VfioError::Probe)? {
        Some(fits) => at_most(fits.min(asked.get())).ok_or(VfioError::NoVectors),
        None => {
            calls.disable(Index::Msi).map_err(VfioError::Probe)?;
            Ok(asked)
        }
    }
}

/// The largest count that MSI can express and that does not exceed `vectors`. `None` for 0.
fn at_most(vectors: u32) -> Option<MessageCount> {
    let log2 = vectors.min(32).checked_ilog2()?;
    MessageCount::new(1u32.wrapping_shl(log2))
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
        self.vectors.open_all(vectors).map_err(|source| BackendError::Open { asked: vectors, source })
    }

    backend_methods!();

    /// Writes Message Control with the host's values: enabled, with as many messages as are open. VFIO's own
    /// copy of the register cannot show whether the device has lost it.
    fn enable_programming(&mut self) -> Programming {
        let Some((at, log2)) = self.control_file_offset.zip(self.vectors.usable().checked_ilog2()) else {
            return Programming::Unknown;
        };
        let control = MessageControl::new().with_enable(true).with_multiple_message_enable(log2 as u8);
        match self.vectors.calls.write(at, &control.into_bits().to_le_bytes()) {
            Ok(()) => Programming::Kept,
            Err(_) => Programming::Unknown,
        }
    }

    fn pending(&mut self, group: u32) -> u64 {
        let Some(at) = self.pending_file_offset.filter(|_| group == 0) else { return 0 };
        // A device that does not answer is gone or in reset. It has no pending interrupt.
        self.vectors.read(at).map_or(0, |bits| u32::from_le_bytes(bits).into())
    }
}

#[cfg(test)]
mod tests;
