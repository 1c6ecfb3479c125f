//! The device with queues: a ring of a queue triggers its slot, in BAR 2 or in guest memory.
//!
//! Owns the registers for the addresses of slots in memory. The vm-msi crate owns the slots. It reads a slot when its
//! doorbell is rung, and writes none.

use serde_json::{Map, Value};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vm_msi::domain::BusMaster;
use vm_msi::ims::SlotRefusal;
use vm_msi::{SoftwareQueue, Vector};

use super::device::{Model, ModelContext};
use super::interrupts::Interrupts;
use super::registers::{
    ADDRESS_HIGH, ADDRESS_LOW, DOORBELL, Halves, PLACE, RESULT, RING, RING_MSIX, SELECT, SELECTED,
    SELECTED_PLACED,
};

/// The MSI-X vector for completed commands.
const COMPLETIONS: Vector = Vector(1);
/// Offset of the control register in a slot of 16 bytes.
const CONTROL: u64 = 12;

/// The model.
#[derive(Debug)]
pub struct Queues {
    memory: GuestMemoryMmap,
    address: Halves,
    select: u32,
    result: u32,
}

impl Queues {
    /// Queues with slots in this memory.
    #[must_use]
    pub fn new(memory: GuestMemoryMmap) -> Self {
        Self { memory, address: Halves::default(), select: 0, result: 0 }
    }

    fn ring(queue: u32, cx: &mut ModelContext<'_>) {
        let slots = cx.interrupts().slot_count();
        match queue.checked_sub(slots) {
            None => cx.trigger_slot(Vector(queue)),
            Some(slot) if slot < cx.interrupts().memory_slot_count() => cx.trigger_memory_slot(Vector(slot)),
            Some(_) => cx.refuse(),
        }
    }

    fn ring_msix(vector: u32, cx: &mut ModelContext<'_>) {
        let vectors = cx.interrupts().msix.as_ref().map_or(0, |msix| msix.layout().size().get());
        if vector < u32::from(vectors) {
            cx.trigger_msix(Vector(vector));
        } else {
            cx.refuse();
        }
    }

    /// Executes a command for a slot in memory and stores its result.
    fn command(
        &mut self,
        cx: &mut ModelContext<'_>,
        command: impl FnOnce(&Self, &SoftwareQueue) -> Result<(), SlotRefusal>,
    ) {
        let slots = &cx.interrupts().memory_slots;
        self.result = slots.as_ref().map_or(NO_SUCH_SLOT, |slots| result(command(self, slots)));
        if self.result == GOOD {
            cx.trigger_msix(COMPLETIONS);
        } else {
            cx.refuse();
        }
    }

    fn place(&self, slot: Vector, slots: &SoftwareQueue) -> Result<(), SlotRefusal> {
        match self.address.whole() {
            0 => slots.clear_address(slot),
            address => slots.set_address(slot, GuestAddress(address)),
        }
    }

    /// Reads the slot. While Bus Master Enable is clear, the device can access no memory.
    fn doorbell(
        &self,
        slot: Vector,
        slots: &SoftwareQueue,
        bus_master: BusMaster,
    ) -> Result<(), SlotRefusal> {
        match bus_master {
            BusMaster::Enabled => slots.fetch(slot, &&self.memory),
            BusMaster::Disabled => slots.fetch(slot, &&GuestMemoryMmap::<()>::new()),
        }
    }

    fn selected(&self, interrupts: &Interrupts) -> u32 {
        let Some(slots) = &interrupts.memory_slots else { return 0 };
        let slot = Vector(self.select);
        let mut control = [0; 4];
        let at = vm_msi::ims::SLOT_BYTES.saturating_mul(slot.0.into()).saturating_add(CONTROL);
        slots.read_copies(at, &mut control);
        let placed = if slots.look(|slots| slots.address(slot)).is_some() { SELECTED_PLACED } else { 0 };
        u32::from_le_bytes(control) | placed
    }
}

/// Results of a command: success, and a slot that does not exist.
const GOOD: u32 = 0;
const NO_SUCH_SLOT: u32 = 1;

/// The result of a command.
fn result(done: Result<(), SlotRefusal>) -> u32 {
    match done {
        Ok(()) => GOOD,
        Err(SlotRefusal::NoSuchSlot { .. }) => NO_SUCH_SLOT,
        Err(SlotRefusal::NotMemory { .. } | SlotRefusal::Straddles { .. }) => 2,
        Err(SlotRefusal::Misaligned { .. }) => 3,
        Err(SlotRefusal::NoAddress { .. }) => 4,
        Err(_) => 5,
    }
}

impl Model for Queues {
    const IDENTIFICATION: [u8; 4] = *b"IMSQ";
    const NAME: &'static str = "queues";

    fn read(&self, register: u64, interrupts: &Interrupts) -> u32 {
        match register {
            SELECT => self.select,
            SELECTED => self.selected(interrupts),
            ADDRESS_LOW => self.address.low,
            ADDRESS_HIGH => self.address.high,
            RESULT => self.result,
            _ => 0,
        }
    }

    fn write(&mut self, register: u64, value: u32, cx: &mut ModelContext<'_>) {
        let (slot, bus_master) = (Vector(value), cx.bus_master());
        match register {
            RING => Self::ring(value, cx),
            RING_MSIX => Self::ring_msix(value, cx),
            SELECT => self.select = value,
            ADDRESS_LOW => self.address.low = value,
            ADDRESS_HIGH => self.address.high = value,
            PLACE => self.command(cx, |queues, slots| queues.place(slot, slots)),
            DOORBELL => self.command(cx, |queues, slots| queues.doorbell(slot, slots, bus_master)),
            _ => {}
        }
    }

    fn reset(&mut self) {
        (self.address, self.select, self.result) = (Halves::default(), 0, GOOD);
    }

    fn report(&self) -> Map<String, Value> {
        Map::new()
    }
}
