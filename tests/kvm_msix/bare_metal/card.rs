//! A PCI function in the guest's address space, and its driver: the accesses by which a guest uses MSI-X.

use std::sync::Arc;

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset, MmioRange};
use vm_device::device_manager::{IoManager, MmioManager};
use vm_msi::mmio::{PbaMmio, TableMmio};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::{Backend, MsiMessage, MsixFunction, Router, VmBudget};

use super::device::Device;
use super::guest::{Guest, Operation};

const CARDS: u64 = 0xe000_0000;
const CARD_BYTES: u64 = 0x4_0000;
/// Where the pending bits are in the BAR: after the largest table.
const PBA: u32 = 0x8000;
/// Where the capability is, as if the BAR had a window into configuration space.
const CONFIG: u64 = 0x1_0000;
/// Where the BAR is once more, as one device: table, pending bits, and other registers between them.
const WHOLE_BAR: u64 = 0x2_0000;
const BAR_BYTES: u64 = 0x9000;

/// A table of so many vectors, and the pending bits behind it.
pub(crate) fn table_layout(vectors: u16) -> Layout {
    let bar = Bar::new(0).unwrap();
    Layout::new(TableSize::new(vectors).unwrap(), (bar, 0), (bar, PBA)).unwrap()
}

/// The crate's MSI-X with a device of the test's.
pub(crate) struct Card {
    /// Raises the interrupts.
    pub(crate) device: Arc<Device>,
    /// The crate's part.
    pub(crate) msix: Arc<MsixFunction>,
    base: u64,
}

impl Card {
    /// A function whose vectors are `backend`'s: the device's, or some of them.
    pub(super) fn new(
        place: usize,
        vectors: u16,
        router: Arc<dyn Router>,
        vm: &Arc<VmBudget>,
        device: Arc<Device>,
        backend: Box<dyn Backend>,
    ) -> Self {
        let budget = vm.admit(0, None).unwrap();
        let msix = Arc::new(MsixFunction::new(table_layout(vectors), router, backend).with_budget(budget));
        Self { device, msix, base: CARDS + place as u64 * CARD_BYTES }
    }

    pub(super) fn attach(&self, bus: &mut IoManager) {
        let windows = [self.msix.layout().table(), self.msix.layout().pba()].map(|window| {
            let bytes = &window.bytes;
            MmioRange::new(MmioAddress(self.base + bytes.start), bytes.end - bytes.start).unwrap()
        });
        bus.register_mmio(windows[0], Arc::new(TableMmio(self.msix.clone()))).unwrap();
        bus.register_mmio(windows[1], Arc::new(PbaMmio(self.msix.clone()))).unwrap();
        let config = MmioRange::new(MmioAddress(self.base + CONFIG), 0x1000).unwrap();
        bus.register_mmio(config, Arc::new(ConfigMmio(self.msix.clone()))).unwrap();
        let bar = MmioRange::new(MmioAddress(self.base + WHOLE_BAR), BAR_BYTES).unwrap();
        bus.register_mmio(bar, Arc::new(BarMmio(self.msix.clone()))).unwrap();
    }

    /// Address of a table entry.
    pub(crate) fn entry(&self, vector: u32) -> u64 {
        self.base + u64::from(vector) * 16
    }

    /// Address of the pending bits.
    pub(crate) fn pba(&self) -> u64 {
        self.base + u64::from(PBA)
    }

    /// Address of the BAR as a whole, where an access may go across all edges.
    pub(crate) fn bar(&self) -> u64 {
        self.base + WHOLE_BAR
    }

    /// Address of the capability.
    pub(crate) fn config(&self) -> u64 {
        self.base + CONFIG
    }

    /// The driver's writes that turn MSI-X on, off, or mask all vectors: Message Control.
    pub(crate) fn control(&self, control: u16) -> Operation {
        Operation::write(self.config() + 2, 2, control.into())
    }

    /// The driver's writes of a message into an entry; its mask stays.
    pub(crate) fn message(&self, vector: u32, message: MsiMessage) -> [Operation; 3] {
        let entry = self.entry(vector);
        [
            Operation::write(entry, 4, message.address_low().into()),
            Operation::write(entry + 4, 4, message.address_high().into()),
            Operation::write(entry + 8, 4, message.data.into()),
        ]
    }

    /// The driver's reads of an entry's message: address, data.
    pub(crate) fn read_message(&self, vector: u32) -> [Operation; 2] {
        [Operation::read(self.entry(vector), 8), Operation::read(self.entry(vector) + 8, 4)]
    }

    /// The driver's write that masks an entry.
    pub(crate) fn mask(&self, vector: u32) -> Operation {
        Operation::write(self.entry(vector) + 12, 4, 1)
    }

    /// The driver's write that unmasks an entry.
    pub(crate) fn unmask(&self, vector: u32) -> Operation {
        Operation::write(self.entry(vector) + 12, 4, 0)
    }

    /// All that a driver does to begin with a vector: message, and mask bit.
    pub(crate) fn request(&self, vector: u32, message: MsiMessage) -> [Operation; 4] {
        let [low, high, data] = self.message(vector, message);
        [low, high, data, self.unmask(vector)]
    }

    /// All that a driver does to end with a vector.
    pub(crate) fn release(&self, vector: u32) -> [Operation; 4] {
        let [low, high, data] = self.message(vector, MsiMessage::BLANK);
        [self.mask(vector), low, high, data]
    }

    /// A vector's pending bit, as a CPU reads it.
    pub(crate) fn is_pending(&self, guest: &Guest, cpu: u8, vector: u32) -> bool {
        let bits = guest.read(cpu, self.pba() + u64::from(vector / 64) * 8, 8);
        bits >> (vector % 64) & 1 != 0
    }
}

/// The capability on the bus.
struct ConfigMmio(Arc<MsixFunction>);

impl DeviceMmio for ConfigMmio {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read_config(offset as u16, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write_config(offset as u16, data);
    }
}

/// A BAR that table and pending bits share with other registers, which read as 0xaa here.
struct BarMmio(Arc<MsixFunction>);

impl DeviceMmio for BarMmio {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        let bar = self.0.layout().table().bar;
        self.0.read_bar(bar, offset, data, |_, part| part.fill(0xaa));
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        let bar = self.0.layout().table().bar;
        self.0.write_bar(bar, offset, data, |_, _| {});
    }
}

/// Message Control: MSI-X Enable.
pub(crate) const ENABLE: u16 = 0x8000;
/// Message Control: Function Mask.
pub(crate) const FUNCTION_MASK: u16 = 0x4000;
