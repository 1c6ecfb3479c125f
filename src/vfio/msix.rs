//! A passed-through device's MSI-X vectors.
//!
//! Binding another vector never disables MSI-X. A host that can allocate single vectors (Linux 6.5 and later,
//! most interrupt domains) enables MSI-X with one vector. A host that cannot (NORESIZE) reserves the whole
//! table when it enables MSI-X, without eventfds. This requests no interrupt and takes no CPU vector.
//! Afterwards vectors get eventfds one by one in both cases. An interrupt for an unbound vector waits in the
//! device's own PBA, because the host keeps the entry masked.
//!
//! Locking: none of its own. A domain calls it under the domain's lock.

use std::fs::File;

use vmm_sys_util::eventfd::EventFd;

use super::VfioError;
use super::set_irqs::{Index, IrqCalls, IrqInfo};
use super::table_mapping::{TableMapping, Word};
use super::vectors::{Vectors, backend_methods};
use crate::backend::{Backend, BackendError, Capabilities, EventfdOwner, Growth, Programming};
use crate::delivery::Vector;
use crate::msix::layout::ENTRY_BYTES;
use crate::msix::regs::{MessageControl, VectorControl};

/// The offsets of a device's own MSI-X registers in the file of its VFIO descriptor. Each is the offset of a
/// region (VFIO_DEVICE_GET_REGION_INFO) plus the register's offset in that region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixFileOffsets {
    /// The pending bit array, in a BAR's region.
    pub pba: u64,
    /// The table, in a BAR's region. Without it, [`Backend::vector_programming`] answers
    /// [`Programming::Unknown`].
    pub table: Option<u64>,
    /// Message Control, in the configuration region. Without it, [`Backend::enable_programming`] answers
    /// [`Programming::Unknown`].
    pub message_control: Option<u64>,
}

/// A passed-through device's MSI-X vectors.
#[derive(Debug)]
pub struct VfioMsix {
    vectors: Vectors,
    capabilities: Capabilities,
    offsets: MsixFileOffsets,
    /// `None` if the host does not let the table be mapped.
    table: Option<TableMapping>,
}

impl VfioMsix {
    /// The vectors of the device behind `device`, a duplicate of its VFIO descriptor. Nothing changes in the
    /// host.
    ///
    /// The table is mapped read-only if the host allows it (Linux 4.16 and later,
    /// VFIO_REGION_INFO_CAP_MSIX_MAPPABLE).
    ///
    /// # Errors
    /// The descriptor is not a VFIO PCI device's, or the device has no MSI-X.
    pub fn new(device: File, offsets: MsixFileOffsets) -> Result<Self, VfioError> {
        let info = info(&device)?;
        let bytes = u64::from(info.vectors).saturating_mul(ENTRY_BYTES);
        let table = offsets.table.and_then(|at| TableMapping::new(&device, at, bytes).ok());
        Ok(Self::with_calls(Box::new(device), info, offsets, table))
    }

    fn with_calls(
        calls: Box<dyn IrqCalls>,
        info: IrqInfo,
        offsets: MsixFileOffsets,
        table: Option<TableMapping>,
    ) -> Self {
        let capabilities = Capabilities {
            vectors: info.vectors,
            growth: if info.dynamic { Growth::Dynamic } else { Growth::Reserved },
            independent: true,
            multi_message: false,
            ims: true,
            cookies: false,
        };
        Self { vectors: Vectors::new(calls, Index::Msix), capabilities, offsets, table }
    }
}

fn info(calls: &dyn IrqCalls) -> Result<IrqInfo, VfioError> {
    let info = calls.info(Index::Msix).map_err(VfioError::Info)?;
    if info.vectors == 0 { Err(VfioError::NoVectors) } else { Ok(info) }
}

impl Backend for VfioMsix {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        let vectors = vectors.min(self.capabilities.vectors);
        let (asked, opened) = match self.capabilities.growth {
            Growth::Dynamic => (1, self.vectors.open_dynamic(vectors)),
            Growth::Reserved | Growth::Fixed => (vectors, self.vectors.open_some(vectors)),
        };
        opened.map_err(|source| BackendError::Open { asked, source })
    }

    backend_methods!();

    fn pending(&mut self, group: u32) -> u64 {
        let at = self.offsets.pba.saturating_add(u64::from(group).saturating_mul(8));
        // A device that does not answer is gone or in reset. It has no pending interrupt.
        self.vectors.read(at).map_or(0, u64::from_le_bytes)
    }

    /// Compares the device's table entry with the values that a host writes for a bound vector: a non-zero
    /// Message Address, and a Vector Control with the mask bit clear. The entry is lost if Message Address is
    /// 0, or Vector Control has its reset value.
    ///
    /// The host masks the entry for a moment while it moves the interrupt to another CPU.
    /// [`Programming::Lost`] may be wrong then. This is harmless: the vector is bound again and loses no
    /// interrupt. An entry that reads all ones is [`Programming::Unknown`]: the device is gone or in reset.
    fn vector_programming(&mut self, vector: Vector) -> Programming {
        let Some(table) = &self.table else { return Programming::Unknown };
        let entry = u64::from(vector.0).saturating_mul(ENTRY_BYTES);
        let control = entry.saturating_add(VECTOR_CONTROL);
        let reset = VectorControl::RESET.into_bits();
        // The lowest two bits of an address are 0, so all ones is not an address.
        for (at, value, meaning) in [
            (entry, 0, Programming::Lost),
            (entry, u32::MAX, Programming::Unknown),
            (control, reset, Programming::Lost),
        ] {
            match table.compare(at, value) {
                Word::Equal => return meaning,
                Word::Unreadable => return Programming::Unknown,
                Word::Different => {}
            }
        }
        Programming::Kept
    }

    /// Reads the device's own Message Control: VFIO answers reads of the MSI-X capability from the device
    /// (Linux vfio_pci_config.c). A register that reads all ones is [`Programming::Unknown`]: the device is
    /// gone or in reset.
    fn enable_programming(&mut self) -> Programming {
        let control = self.offsets.message_control.and_then(|at| self.vectors.read(at));
        match control.map(u16::from_le_bytes) {
            None | Some(u16::MAX) => Programming::Unknown,
            Some(control) if MessageControl::from_bits(control).enable() => Programming::Kept,
            Some(_) => Programming::Lost,
        }
    }
}

/// Offset of Vector Control in a table entry, PCIe r6 §7.7.2.8.
const VECTOR_CONTROL: u64 = 12;

#[cfg(test)]
mod tests;
