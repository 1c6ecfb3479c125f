//! IMS slots in the guest's memory, and their driver: the device has a register for each of a driver's commands.

use std::sync::atomic::Ordering::Release;
use std::sync::{Arc, Mutex};

use vm_device::DeviceMmio;
use vm_device::bus::{MmioAddress, MmioAddressOffset, MmioRange};
use vm_device::device_manager::{IoManager, MmioManager};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vm_msi::ims::{QueueLayout, SlotArrayLayout};
use vm_msi::kvm::KvmRouter;
use vm_msi::{Backend, MsiMessage, QueueFunction, Vector};

use super::device::Device;
use super::guest::Operation;
use super::layout::SLOTS;
use super::slots::slot_layout;

const REGISTERS: u64 = 0xd100_0000;
const REGISTERS_BYTES: u64 = 0x1000;
/// A guest address, for the next slot that is placed.
const ADDRESS: u64 = 0;
/// Places the slot that is written there.
const PLACE: u64 = 8;
/// The doorbell of the slot that is written there.
const RING: u64 = 16;

/// The crate's IMS in guest memory with a device of the test's.
pub(crate) struct Queue {
    /// Raises the interrupts.
    pub(crate) device: Arc<Device>,
    /// The crate's part.
    pub(crate) ims: Arc<QueueFunction>,
    memory: GuestMemoryMmap,
    base: u64,
}

impl Queue {
    pub(super) fn new(
        place: usize,
        slots: u32,
        router: Arc<KvmRouter>,
        memory: GuestMemoryMmap,
        device: Arc<Device>,
        backend: Box<dyn Backend>,
    ) -> Self {
        let SlotArrayLayout { slots, control } = slot_layout(slots);
        let layout = QueueLayout { slots, control };
        let ims = Arc::new(QueueFunction::try_new(layout, router, backend).unwrap());
        Self { device, ims, memory, base: REGISTERS + place as u64 * REGISTERS_BYTES }
    }

    pub(super) fn attach(&self, bus: &mut IoManager) {
        let range = MmioRange::new(MmioAddress(self.base), REGISTERS_BYTES).unwrap();
        let (ims, memory) = (self.ims.clone(), self.memory.clone());
        let registers = Registers { ims, memory, address: Mutex::new(0) };
        bus.register_mmio(range, Arc::new(registers)).unwrap();
    }

    /// Where the driver of these tests has a slot.
    pub(crate) fn address(slot: u32) -> u64 {
        SLOTS + u64::from(slot) * 16
    }

    /// The driver's writes that say where a slot is.
    pub(crate) fn place(&self, slot: u32) -> [Operation; 2] {
        [
            Operation::write(self.base + ADDRESS, 8, Self::address(slot)),
            Operation::write(self.base + PLACE, 4, slot.into()),
        ]
    }

    /// The driver's doorbell.
    pub(crate) fn ring(&self, slot: u32) -> Operation {
        Operation::write(self.base + RING, 4, slot.into())
    }

    /// The driver's writes to its own memory: no access of these reaches the device.
    pub(crate) fn rewrite(slot: u32, message: MsiMessage, control: u64) -> [Operation; 3] {
        let at = Self::address(slot);
        [
            Operation::write(at, 8, message.address),
            Operation::write(at + 8, 4, message.data.into()),
            Operation::write(at + 12, 4, control),
        ]
    }

    /// The same by another thread, in the order of a driver that leaves nobody a message of two halves: mask, message,
    /// unmask.
    pub(crate) fn rewrite_masked(&self, slot: u32, message: MsiMessage) {
        let at = |offset| GuestAddress(Self::address(slot) + offset);
        self.memory.store(1u32, at(12), Release).unwrap();
        self.memory.store(message.address_low(), at(0), Release).unwrap();
        self.memory.store(message.address_high(), at(4), Release).unwrap();
        self.memory.store(message.data, at(8), Release).unwrap();
        self.memory.store(0u32, at(12), Release).unwrap();
    }
}

/// The commands on the bus. What is refused has no effect that these tests look at.
struct Registers {
    ims: Arc<QueueFunction>,
    memory: GuestMemoryMmap,
    address: Mutex<u64>,
}

impl DeviceMmio for Registers {
    fn mmio_read(&self, _base: MmioAddress, _offset: MmioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn mmio_write(&self, _base: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(value);
        let slot = Vector(value as u32);
        match offset {
            ADDRESS => *self.address.lock().unwrap() = value,
            PLACE => drop(self.ims.set_address(slot, GuestAddress(*self.address.lock().unwrap()))),
            RING => drop(self.ims.fetch(slot, &&self.memory)),
            _ => {}
        }
    }
}
