//! A PCI function with MSI in the guest's address space, and its driver: the accesses by which a guest uses MSI.
//!
//! Its device programs all messages at once, so it takes eventfds only for vectors that it was opened with.

use std::sync::Arc;

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset, MmioRange};
use vm_device::device_manager::{IoManager, MmioManager};
use vm_msi::backend::{BackendError, Capabilities, EventfdOwner, Growth};
use vm_msi::kvm::KvmRouter;
use vm_msi::msi::{AddressWidth, MsiLayout, VectorMasking};
use vm_msi::{Backend, MsiFunction, MsiMessage, Vector};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Device, DeviceBackend};
use super::guest::Operation;

/// Beside the BARs of the MSI-X cards.
const CAPABILITIES: u64 = 0xe800_0000;
const CAPABILITY_BYTES: u64 = 0x1000;

/// The crate's MSI with a device of the test's.
pub(crate) struct MsiCard {
    /// Raises the interrupts.
    pub(crate) device: Arc<Device>,
    /// The crate's part.
    pub(crate) msi: Arc<MsiFunction>,
    layout: MsiLayout,
    base: u64,
}

impl MsiCard {
    pub(super) fn new(place: usize, layout: MsiLayout, router: Arc<KvmRouter>) -> Self {
        let device = Device::new(layout.messages().get());
        let backend = MessagesBackend { lines: DeviceBackend(device.clone()), opened: 0 };
        let msi = Arc::new(MsiFunction::try_new(layout, router, backend).unwrap());
        Self { device, msi, layout, base: CAPABILITIES + place as u64 * CAPABILITY_BYTES }
    }

    pub(super) fn attach(&self, bus: &mut IoManager) {
        let range = MmioRange::new(MmioAddress(self.base), CAPABILITY_BYTES).unwrap();
        bus.register_mmio(range, Arc::new(CapabilityMmio(self.msi.clone()))).unwrap();
    }

    /// The driver's write of Message Control: MSI on, with `1 << log2` messages.
    pub(crate) fn enable(&self, log2: u16) -> Operation {
        Operation::write(self.base + 2, 2, u64::from(log2 << 4 | 1))
    }

    /// The driver's write that turns MSI off.
    pub(crate) fn disable(&self) -> Operation {
        Operation::write(self.base + 2, 2, 0)
    }

    /// The driver's writes of the one message from which all are made.
    pub(crate) fn message(&self, message: MsiMessage) -> Vec<Operation> {
        let low = Operation::write(self.base + 4, 4, message.address_low().into());
        let data = |offset| Operation::write(self.base + offset, 2, message.data.into());
        match self.layout.address() {
            AddressWidth::Bits32 => vec![low, data(8)],
            AddressWidth::Bits64 => {
                vec![low, Operation::write(self.base + 8, 4, message.address_high().into()), data(12)]
            }
        }
    }

    /// The driver's write of the Mask Bits, of a function that has them.
    pub(crate) fn mask(&self, vectors: u32) -> Operation {
        Operation::write(self.mask_bits(), 4, vectors.into())
    }

    /// The driver's read of the Pending Bits behind them.
    pub(crate) fn read_pending(&self) -> Operation {
        Operation::read(self.mask_bits() + 4, 4)
    }

    fn mask_bits(&self) -> u64 {
        assert_eq!(self.layout.masking(), VectorMasking::Present);
        self.base + u64::from(self.layout.bytes()) - 8
    }
}

/// The capability on the bus.
struct CapabilityMmio(Arc<MsiFunction>);

impl DeviceMmio for CapabilityMmio {
    fn mmio_read(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.read_config(offset as u16, data);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.write_config(offset as u16, data);
    }
}

/// A device's messages, which come and go together.
pub(crate) struct MessagesBackend {
    lines: DeviceBackend,
    opened: u32,
}

impl Backend for MessagesBackend {
    fn capabilities(&self) -> Capabilities {
        let lines = self.lines.capabilities();
        Capabilities {
            growth: Growth::Reserved,
            independent: false,
            multi_message: true,
            ims: false,
            ..lines
        }
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        assert!((1..=self.capabilities().vectors).contains(&vectors), "{vectors} messages");
        self.opened = vectors;
        Ok(())
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        assert!(vector.0 < self.opened, "{vector:?} of {} messages", self.opened);
        self.lines.bind(vector, eventfd)
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.lines.unbind(vector)
    }

    fn close(&mut self) -> Result<(), BackendError> {
        self.opened = 0;
        self.lines.close()
    }

    fn eventfd_owner_after_close(&self) -> EventfdOwner {
        self.lines.eventfd_owner_after_close()
    }

    fn pending(&mut self, group: u32) -> u64 {
        self.lines.pending(group)
    }
}
