//! What a device signals with: slots in BAR 2, slots in guest memory, MSI-X. Each is a function of the library's and
//! knows nothing of the others. Their domains are software, but for slots in BAR 2 that a device of the host's fires.

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
/// Vectors of MSI-X: refused writes, completed commands.
const MSIX_VECTORS: u16 = 2;

/// Why a device cannot have its interrupts.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InterruptsError {
    /// A parent cannot do what they need.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A slot cannot be described.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// MSI-X has no place.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Whether a device has special vectors beside its IMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It has MSI-X for them.
    Msix,
    /// It has an IMS and nothing else.
    None,
}

/// Which interrupts a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Slots in BAR 2.
    pub slots: SlotCount,
    /// Slots in guest memory, if any.
    pub memory_slots: Option<SlotCount>,
    /// What there is beside.
    pub special: Special,
}

/// A device's interrupts.
pub struct Interrupts {
    /// What tells the guest of the slots: it is there only where they could be had.
    pub siov: SiovDvsec,
    /// For special vectors, where it has them.
    pub msix: Option<SoftwareMsix>,
    /// The slots in BAR 2.
    pub slots: Box<dyn BarSlots>,
    /// The slots in guest memory, if any.
    pub memory_slots: Option<SoftwareQueue>,
}

impl Interrupts {
    /// Those of a device after power-on: all wait until the bus lets it signal.
    ///
    /// # Errors
    /// The router cannot carry them.
    pub fn new(shape: Shape, router: Arc<dyn Router>) -> Result<Self, InterruptsError> {
        let Shape { slots, memory_slots, special } = shape;
        let slots = SoftwareIms::try_software(bar_slots(slots)?, router.clone())?;
        Self::with_bar_slots(Box::new(slots), memory_slots, special, router)
    }

    /// The same with slots in BAR 2 that somebody else fires.
    ///
    /// # Errors
    /// The router cannot carry them.
    pub fn with_bar_slots(
        slots: Box<dyn BarSlots>,
        memory_slots: Option<SlotCount>,
        special: Special,
        router: Arc<dyn Router>,
    ) -> Result<Self, InterruptsError> {
        let control = control()?;
        let msix = match special {
            Special::Msix => Some(SoftwareMsix::try_software(msix()?, router.clone())?),
            Special::None => None,
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
    /// How many slots are in BAR 2.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        self.slots.layout().slots.get()
    }

    /// How many slots are in guest memory.
    #[must_use]
    pub fn memory_slot_count(&self) -> u32 {
        self.memory_slots.as_ref().map_or(0, |slots| slots.layout().slots.get())
    }

    /// The bus lets the device signal, or keeps it from it: all interrupts wait then.
    pub fn set_bus_master(&self, bus_master: BusMaster) {
        self.slots.set_bus_master(bus_master);
        self.memory_slots.iter().for_each(|slots| slots.set_bus_master(bus_master));
        self.msix.iter().for_each(|msix| msix.set_bus_master(bus_master));
    }

    /// Back to what the slots were after power-on.
    pub fn reset_slots(&self) {
        self.slots.reset();
        self.memory_slots.iter().for_each(|slots| slots.reset(|| ()));
    }

    /// The same for MSI-X.
    pub fn reset_msix(&self) {
        self.msix.iter().for_each(|msix| msix.reset(|| ()));
    }

    /// Tries again what the host refused to deliver.
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

/// So many slots in BAR 2.
///
/// # Errors
/// None: a slot's control can be described.
pub fn bar_slots(slots: SlotCount) -> Result<SlotArrayLayout, FormatError> {
    Ok(SlotArrayLayout { slots, control: control()? })
}

/// A slot's control: bit 0 masks, bit 1 is pending.
fn control() -> Result<ControlFormat, FormatError> {
    let mask = Bit::new(0).map(|bit| MaskBit { bit, masked_when: MaskedWhen::Set });
    ControlFormat::new(mask, Bit::new(1), None)
}

fn msix() -> Result<Layout, LayoutError> {
    let bar = Bar::new(MSIX_BAR).ok_or(LayoutError::ReservedBar(MSIX_BAR))?;
    let size = TableSize::new(MSIX_VECTORS).unwrap_or(TableSize::MAX);
    Layout::new(size, (bar, MSIX_TABLE), (bar, MSIX_PBA))
}
