//! The interrupts of a device: slots in BAR 2, slots in guest memory, MSI-X. Each is an independent function of the
//! vm-msi crate with a software domain. Slots that a host device fires are the exception.

use std::sync::Arc;

use serde_json::{Map, Value};
use vm_msi::backend::Unsupported;
use vm_msi::domain::BusMaster;
use vm_msi::ims::{
    Bit, ControlFormat, FormatError, MaskBit, MaskedWhen, PageSizes, QueueLayout, SiovDvsec, SlotArrayLayout,
    SlotCount,
};
use vm_msi::msix::{Bar, Layout, LayoutError, TableSize};
use vm_msi::{InterruptFunction, Router, SoftwareIms, SoftwareMsix, SoftwareQueue};

use super::bar_slots::BarSlots;
use crate::report;

/// The BAR with the MSI-X table and its pending bits.
pub const MSIX_BAR: u8 = 4;
const MSIX_TABLE: u32 = 0;
const MSIX_PBA: u32 = 0x800;
/// MSI-X vectors: refused writes, completed commands.
const MSIX_VECTORS: u16 = 2;

/// Why a device's interrupts cannot be created.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InterruptsError {
    /// The parent domain lacks a feature.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The slot format is invalid.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The MSI-X layout is invalid.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Whether a device has MSI-X beside its IMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsixPresence {
    /// The device has MSI-X.
    Present,
    /// The device has an IMS only.
    Absent,
}

/// The interrupts that a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptConfig {
    /// Slots in BAR 2.
    pub slots: SlotCount,
    /// Slots in guest memory, if any.
    pub memory_slots: Option<SlotCount>,
    /// Whether there is MSI-X.
    pub msix: MsixPresence,
}

/// A device's interrupts.
pub struct Interrupts {
    /// The Scalable IOV capability, which advertises the slots.
    pub siov: SiovDvsec,
    /// MSI-X, if present.
    pub msix: Option<SoftwareMsix>,
    /// The slots in BAR 2.
    pub slots: Box<dyn BarSlots>,
    /// The slots in guest memory, if any.
    pub memory_slots: Option<SoftwareQueue>,
}

impl Interrupts {
    /// Creates interrupts in their power-on state. They are pending until Bus Master Enable is set.
    ///
    /// # Errors
    /// The router lacks a feature.
    pub fn new(config: InterruptConfig, router: Arc<dyn Router>) -> Result<Self, InterruptsError> {
        let InterruptConfig { slots, memory_slots, msix } = config;
        let slots = SoftwareIms::try_software(bar_slots(slots)?, router.clone())?;
        Self::with_bar_slots(Box::new(slots), memory_slots, msix, router)
    }

    /// Creates interrupts with other slots in BAR 2.
    ///
    /// # Errors
    /// The router lacks a feature.
    pub fn with_bar_slots(
        slots: Box<dyn BarSlots>,
        memory_slots: Option<SlotCount>,
        msix: MsixPresence,
        router: Arc<dyn Router>,
    ) -> Result<Self, InterruptsError> {
        let control = control()?;
        let msix = match msix {
            MsixPresence::Present => Some(SoftwareMsix::try_software(msix_layout()?, router.clone())?),
            MsixPresence::Absent => None,
        };
        let queue = |slots| SoftwareQueue::try_software(QueueLayout { slots, control }, router.clone());
        let interrupts = Self {
            siov: SiovDvsec::try_new(router.capabilities(), PageSizes::SIZE_4K)?,
            msix,
            slots,
            memory_slots: memory_slots.map(queue).transpose()?,
        };
        interrupts.set_bus_master(BusMaster::Disabled);
        Ok(interrupts)
    }
}

impl Interrupts {
    /// Number of slots in BAR 2.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        self.slots.layout().slots.get()
    }

    /// Number of slots in guest memory.
    #[must_use]
    pub fn memory_slot_count(&self) -> u32 {
        self.memory_slots.as_ref().map_or(0, |slots| slots.layout().slots.get())
    }

    /// Sets Bus Master Enable. While it is clear, interrupts are pending.
    pub fn set_bus_master(&self, bus_master: BusMaster) {
        self.slots.set_bus_master(bus_master);
        self.memory_slots.iter().for_each(|slots| slots.set_bus_master(bus_master));
        self.msix.iter().for_each(|msix| msix.set_bus_master(bus_master));
    }

    /// Resets the slots to their power-on state.
    pub fn reset_slots(&self) {
        self.slots.reset();
        self.memory_slots.iter().for_each(|slots| slots.reset(|| ()));
    }

    /// Resets MSI-X to its power-on state.
    pub fn reset_msix(&self) {
        self.msix.iter().for_each(|msix| msix.reset(|| ()));
    }

    /// Retries refused deliveries.
    pub fn retry(&self) {
        self.slots.retry();
        self.memory_slots.iter().for_each(InterruptFunction::retry);
        self.msix.iter().for_each(InterruptFunction::retry);
    }

    /// Their part of the report.
    #[must_use]
    pub fn report(&self) -> Map<String, Value> {
        let mut fields = self.slots.report();
        if let Some(slots) = &self.memory_slots {
            fields.insert("memory_slots".into(), report::software(slots));
        }
        if let Some(msix) = &self.msix {
            fields.insert("software_msix".into(), report::software(msix));
        }
        fields
    }
}

/// The layout of `slots` slots in BAR 2.
///
/// # Errors
/// Never fails: the control format is valid.
pub fn bar_slots(slots: SlotCount) -> Result<SlotArrayLayout, FormatError> {
    Ok(SlotArrayLayout { slots, control: control()? })
}

/// A slot's control: bit 0 masks, bit 1 is pending.
fn control() -> Result<ControlFormat, FormatError> {
    let mask = Bit::new(0).map(|bit| MaskBit { bit, masked_when: MaskedWhen::Set });
    ControlFormat::new(mask, Bit::new(1), None)
}

fn msix_layout() -> Result<Layout, LayoutError> {
    let bar = Bar::new(MSIX_BAR).ok_or(LayoutError::ReservedBar(MSIX_BAR))?;
    let size = TableSize::new(MSIX_VECTORS).unwrap_or(TableSize::MAX);
    Layout::new(size, (bar, MSIX_TABLE), (bar, MSIX_PBA))
}
