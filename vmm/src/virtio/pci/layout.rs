//! The layout of a device's BAR: a page for each structure (virtio 1.2 §4.1.4).

use std::ops::Range;

use vm_msi::msix::{Bar, Layout, LayoutError, TableSize};

use super::common;

/// The BAR with all structures: 32-bit memory.
pub const BAR: u8 = 0;
/// Its size in bytes.
pub const BAR_BYTES: u64 = 0x8000;

/// Distance of two doorbells, `notify_off_multiplier`.
pub const DOORBELL_BYTES: u32 = 4;
/// Offset of the first queue's doorbell.
pub const DOORBELLS: u64 = Structure::Notify.start();

const MSIX_TABLE: u32 = 0x4000;
const MSIX_PBA: u32 = 0x6000;

/// The virtio structures, without MSI-X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// Common configuration.
    Common,
    /// ISR status.
    Isr,
    /// The device's own configuration.
    Device,
    /// The queues' doorbells.
    Notify,
}

impl Structure {
    /// All of them, by address.
    pub const ALL: [Self; 4] = [Self::Common, Self::Isr, Self::Device, Self::Notify];

    /// `cfg_type` in its capability (virtio 1.2 §4.1.4).
    #[must_use]
    pub fn cfg_type(self) -> u8 {
        match self {
            Self::Common => 1,
            Self::Notify => 2,
            Self::Isr => 3,
            Self::Device => 4,
        }
    }

    const fn start(self) -> u64 {
        match self {
            Self::Common => 0x0000,
            Self::Isr => 0x1000,
            Self::Device => 0x2000,
            Self::Notify => 0x3000,
        }
    }

    /// Its page in the BAR.
    #[must_use]
    pub fn page(self) -> Range<u64> {
        self.start()..self.start().saturating_add(0x1000)
    }

    /// The length that the driver sees, for a device with this number of queues and configuration bytes.
    #[must_use]
    pub fn len(self, queues: u16, config: usize) -> u32 {
        match self {
            Self::Common => common::BYTES,
            Self::Isr => 1,
            Self::Device => u32::try_from(config).unwrap_or(u32::MAX),
            Self::Notify => u32::from(queues).saturating_mul(DOORBELL_BYTES),
        }
    }
}

/// The MSI-X layout of a device: a vector for each queue, and one for the configuration.
///
/// # Errors
/// More than 511 queues: the table overlaps the PBA.
pub fn msix(queues: usize) -> Result<Layout, LayoutError> {
    let vectors = u16::try_from(queues).unwrap_or(u16::MAX).saturating_add(1);
    let size = TableSize::new(vectors).unwrap_or(TableSize::MAX);
    let bar = Bar::new(BAR).ok_or(LayoutError::ReservedBar(BAR))?;
    Layout::new(size, (bar, MSIX_TABLE), (bar, MSIX_PBA))
}
