//! An array of IMS slots in the guest's address space, and its driver: the accesses by which a guest uses slots.

use std::sync::Arc;

use vm_device::bus::{MmioAddress, MmioRange};
use vm_device::device_manager::{IoManager, MmioManager};
use vm_msi::ims::{Bit, ControlFormat, MaskBit, MaskedWhen, SlotArrayLayout, SlotCount};
use vm_msi::kvm::KvmRouter;
use vm_msi::mmio::SlotsMmio;
use vm_msi::{Backend, DeviceBudget, ImsFunction, MsiMessage};

use super::device::Device;
use super::guest::Operation;

const ARRAYS: u64 = 0xf000_0000;
const ARRAY_BYTES: u64 = 0x10_0000;

/// The control DWORD's mask bit.
pub(crate) const MASKED: u64 = 1;
/// Its pending bit.
pub(crate) const PENDING: u64 = 2;

/// The shape of so many slots.
pub(crate) fn slot_layout(slots: u32) -> SlotArrayLayout {
    // As in DSA, but for the cookie, of which the device has none.
    let mask = MaskBit { bit: Bit::new(0).unwrap(), masked_when: MaskedWhen::Set };
    let control = ControlFormat::new(Some(mask), Bit::new(1), None).unwrap();
    SlotArrayLayout { slots: SlotCount::new(slots).unwrap(), control }
}

/// The crate's IMS with a device of the test's.
pub(crate) struct Slots {
    /// Raises the interrupts.
    pub(crate) device: Arc<Device>,
    /// The crate's part.
    pub(crate) ims: Arc<ImsFunction>,
    base: u64,
}

impl Slots {
    pub(super) fn new(
        place: usize,
        layout: SlotArrayLayout,
        router: Arc<KvmRouter>,
        device: Arc<Device>,
        backend: Box<dyn Backend>,
    ) -> Self {
        let ims = ImsFunction::try_new(layout, router, backend).unwrap();
        // A budget of its own: tests use more slots than the default allows.
        let ims = Arc::new(ims.with_budget(DeviceBudget::new(Some(layout.slots.get()))));
        Self { device, ims, base: ARRAYS + place as u64 * ARRAY_BYTES }
    }

    pub(super) fn attach(&self, bus: &mut IoManager) {
        let range = MmioRange::new(MmioAddress(self.base), self.ims.layout().bytes()).unwrap();
        bus.register_mmio(range, Arc::new(SlotsMmio(self.ims.clone()))).unwrap();
    }

    /// Address of a slot's control DWORD.
    fn control(&self, slot: u32) -> u64 {
        self.base + u64::from(slot) * 16 + 12
    }

    /// The driver's read of a slot's control DWORD.
    pub(crate) fn read_control(&self, slot: u32) -> Operation {
        Operation::read(self.control(slot), 4)
    }

    /// The driver's write that masks or unmasks a slot.
    pub(crate) fn write_control(&self, slot: u32, control: u64) -> Operation {
        Operation::write(self.control(slot), 4, control)
    }

    /// The driver's writes of a message into a slot; its control stays.
    pub(crate) fn message(&self, slot: u32, message: MsiMessage) -> [Operation; 3] {
        let at = self.base + u64::from(slot) * 16;
        [
            Operation::write(at, 4, message.address_low().into()),
            Operation::write(at + 4, 4, message.address_high().into()),
            Operation::write(at + 8, 4, message.data.into()),
        ]
    }

    /// All that a driver does to begin with a slot: message, and mask bit.
    pub(crate) fn request(&self, slot: u32, message: MsiMessage) -> [Operation; 4] {
        let [low, high, data] = self.message(slot, message);
        [low, high, data, self.write_control(slot, 0)]
    }
}
