//! Devices on a bus as their drivers see them, with a router that records messages.

mod configuration;
mod mediated;
mod memory_slots;
mod queues;
mod registers;
mod timer;

use std::sync::Arc;

use vm_device::bus::MmioAddress;
use vm_memory::GuestMemoryMmap;
use vm_msi::MsiMessage;
use vm_msi::ims::SlotCount;
use vm_msi::testing::{Failures, FakeRouter};

use super::device::{Device, Model};
use super::function::PciFunction;
use super::interrupts::{InterruptConfig, Interrupts, MsixPresence};
use super::queues::Queues;
use super::timer::Timer;
use crate::pci::Root;
use crate::pci::driver::{Driver, little_endian};
use crate::pci::windows::tests::windows;

/// A device on a bus, and its driver.
struct Machine<M> {
    root: Arc<Root>,
    device: Arc<Device<M>>,
    router: Arc<FakeRouter>,
    failures: Failures,
    /// Addresses of BARs 0, 2 and 4.
    bars: [u64; 3],
}

impl Machine<Queues> {
    /// Queues with this number of slots in a BAR. Decoding and bus mastering are enabled.
    fn queues(slots: u32) -> Self {
        Self::with_memory_slots(slots, 0, &GuestMemoryMmap::new())
    }

    /// Queues with slots in a BAR and in memory.
    fn with_memory_slots(slots: u32, memory_slots: u32, memory: &GuestMemoryMmap) -> Self {
        let (slots, memory_slots) = (SlotCount::new(slots).unwrap(), SlotCount::new(memory_slots));
        let config = InterruptConfig { slots, memory_slots, msix: MsixPresence::Present };
        Self::new(0x10f1, Queues::new(memory.clone()), config)
    }

    /// Enables MSI-X with messages that differ from those of slots.
    fn enable_msix(&self) {
        self.config_write(self.capability(0x11).unwrap() + 2, &0x8000u16.to_le_bytes());
        for vector in 0..2u32 {
            let entry = self.bars[2] + 16 * u64::from(vector);
            self.write_at(entry, &msix_message(vector).address.to_le_bytes());
            self.write_at(entry + 8, &msix_message(vector).data.to_le_bytes());
            self.write_at(entry + 12, &[0; 4]);
        }
    }
}

impl Machine<Timer> {
    fn timer(slots: u32) -> Self {
        let slots = SlotCount::new(slots).unwrap();
        let config = InterruptConfig { slots, memory_slots: None, msix: MsixPresence::Absent };
        Self::new(0x10f0, Timer::new().unwrap(), config)
    }
}

impl<M: Model> Machine<M> {
    fn new(id: u16, model: M, config: InterruptConfig) -> Self {
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let interrupts = Interrupts::new(config, router.clone()).unwrap();
        Self::with(id, model, interrupts, router, failures)
    }

    /// A device with these interrupts. Decoding and bus mastering are enabled.
    fn with(id: u16, model: M, interrupts: Interrupts, router: Arc<FakeRouter>, failures: Failures) -> Self {
        let root = Root::new(windows());
        let device = Arc::new(Device::new(model, interrupts));
        let function = PciFunction::new(id, Arc::clone(&device), &root).unwrap();
        root.add(Arc::new(function)).unwrap();
        let mut machine = Self { root, device, router, failures, bars: [0; 3] };
        machine.bars = [0, 2, 4].map(|bar| machine.bar(bar));
        machine.config_write(4, &[6, 0]);
        machine
    }

    fn bar(&self, bar: u64) -> u64 {
        let at = 0x10 + 4 * bar;
        let [low, high] = [at, at + 4].map(|at| u64::from(self.config_read::<4>(at)));
        high << 32 | low & !0xf
    }

    /// Reads a register.
    fn read(&self, register: u64) -> u32 {
        self.read_at::<4>(self.bars[0] + register)
    }

    /// Writes a register.
    fn write(&self, register: u64, value: u32) {
        self.write_at(self.bars[0] + register, &value.to_le_bytes());
    }

    fn read_at<const N: usize>(&self, address: u64) -> u32 {
        let mut data = [0; N];
        self.root.mmio().mmio_read(MmioAddress(0), address, &mut data);
        little_endian(&data) as u32
    }

    fn write_at(&self, address: u64, data: &[u8]) {
        self.root.mmio().mmio_write(MmioAddress(0), address, data);
    }

    /// Sets up a slot in the BAR as a driver does: its message, then its control.
    fn set_up(&self, slot: u32, control: u32) {
        let at = self.bars[1] + 16 * u64::from(slot);
        let MsiMessage { address, data } = message(slot);
        self.write_at(at, &address.to_le_bytes());
        self.write_at(at + 8, &data.to_le_bytes());
        self.write_at(at + 12, &control.to_le_bytes());
    }

    /// Frees a slot.
    fn free(&self, slot: u32) {
        let at = self.bars[1] + 16 * u64::from(slot);
        self.write_at(at + 12, &MASK.to_le_bytes());
        self.write_at(at, &[0; 12]);
    }

    fn control(&self, slot: u32) -> u32 {
        self.read_at::<4>(self.bars[1] + 16 * u64::from(slot) + 12)
    }

    fn set_control(&self, slot: u32, control: u32) {
        self.write_at(self.bars[1] + 16 * u64::from(slot) + 12, &control.to_le_bytes());
    }

    /// The interrupts since the last call.
    fn interrupts(&self) -> Vec<MsiMessage> {
        self.router.pump();
        self.router.take_delivered()
    }

    /// Triggers, dropped triggers, refused writes.
    fn counters(&self) -> [u32; 3] {
        [0x030, 0x034, 0x038].map(|register| self.read(register))
    }
}

impl<M> Driver for Machine<M> {
    fn root(&self) -> &Arc<Root> {
        &self.root
    }
}

/// Registers of the queues.
const RING: u64 = 0x020;
const RING_MSIX: u64 = 0x024;

/// A slot's mask bit, and its pending bit.
const MASK: u32 = 1;
const PENDING: u32 = 2;

/// The message of a slot. 49,152 neighbouring slots have different ones.
fn message(slot: u32) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000 + (u64::from(slot / 192 % 256) << 12), data: 0x20 + slot % 192 }
}

/// The message of an MSI-X vector. No slot has it.
fn msix_message(vector: u32) -> MsiMessage {
    MsiMessage { address: 0xfeef_f000, data: 0xe0 + vector }
}
