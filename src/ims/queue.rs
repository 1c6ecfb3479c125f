//! Slots in guest memory, at addresses that the driver sets. The device uses the copy of a slot that it made
//! at the last doorbell.
//!
//! A driver sets a slot's address, writes the slot, and rings a doorbell, which is usually one register
//! write. The device reads the slot only then: once, as a whole, and under the lock of these registers. A
//! domain sees the copy. A guest that rewrites its slot changes nothing until the next doorbell, and a guest
//! that rewrites it during the read harms only itself. The device never writes to guest memory.
//!
//! Invariant: a slot without an address is off, and so is a slot that could not be read at its last doorbell.

use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemory, Permissions};

use super::array::Slots;
use super::atomic_read;
use super::layout::{QueueLayout, SLOT_BYTES};
use super::slot::Slot;
use super::slot_address::{SlotAddress, SlotRefusal};
use super::state::QueueState;
use crate::backend::{Capabilities, Cookie};
use crate::counter::Increment;
use crate::delivery::{Delivery, Store, Touched, Vector};
use crate::lock::Mutex;
use crate::registers::Registers;
use crate::state::RestoreError;

/// A function's IMS as slots in guest memory.
///
/// ```
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
/// use vm_msi::ims::{ControlFormat, QueueLayout, QueueStore, SlotCount};
/// use vm_msi::{Delivery, MsiMessage, Store, Vector};
///
/// let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
/// let slots = SlotCount::new(1024).unwrap();
/// let ims = QueueStore::new(QueueLayout { slots, control: ControlFormat::DSA });
///
/// // A driver sets the address of slot 7, writes the slot, and rings its doorbell.
/// ims.set_address(Vector(7), GuestAddress(0x4560)).unwrap();
/// memory.write_obj(0xfee0_0000u64, GuestAddress(0x4560)).unwrap();
/// memory.write_obj(0x41u64, GuestAddress(0x4568)).unwrap();
/// assert_eq!(ims.delivery(Vector(7)), Delivery::Off, "the device has not read it yet");
///
/// let (touched, read) = ims.fetch(Vector(7), &&memory);
/// assert!(touched.vectors().eq([Vector(7)]) && read.is_ok());
/// let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
/// assert_eq!(ims.delivery(Vector(7)), Delivery::Live(message));
/// ```
#[derive(Debug)]
pub struct QueueStore {
    layout: QueueLayout,
    queue: Mutex<Queue>,
}

impl QueueStore {
    /// Slots after power-on: none has an address, and the store is not in use.
    pub fn new(layout: QueueLayout) -> Self {
        Self { layout, queue: Mutex::new(Queue::new(&layout)) }
    }

    /// The number of slots, and their control format.
    pub fn layout(&self) -> &QueueLayout {
        &self.layout
    }

    /// Reads the copies as if they were an array. `offset` is in bytes. Bytes beyond the last slot read 0.
    /// Pending bits read 0: they belong to the domain.
    pub fn read_copies(&self, offset: u64, data: &mut [u8]) {
        self.queue.lock().copies.read(offset, data);
    }

    /// The address of a slot, if the guest has set one.
    pub fn address(&self, slot: Vector) -> Option<GuestAddress> {
        self.queue.lock().address(slot)
    }

    /// The number of refused commands since power-on.
    pub fn refusals(&self) -> u64 {
        self.queue.lock().refusals
    }

    /// Sets the address of `slot`. The copy stays in force until the next [`fetch`](QueueStore::fetch), so a
    /// driver that moves a slot loses no interrupt.
    ///
    /// # Errors
    /// [`SlotRefusal::NoSuchSlot`] or [`SlotRefusal::Misaligned`]. Nothing has changed. Whether memory exists
    /// at the address is checked by `fetch`.
    pub fn set_address(&self, slot: Vector, address: GuestAddress) -> Result<(), SlotRefusal> {
        self.queue.lock().set_address(slot, address)
    }

    /// Clears the address of `slot`, and turns the slot off. A driver does this when it frees the slot,
    /// before it reuses the memory.
    ///
    /// # Errors
    /// [`SlotRefusal::NoSuchSlot`].
    pub fn clear_address(&self, slot: Vector) -> Result<Touched, SlotRefusal> {
        self.queue.lock().clear_address(slot)
    }

    /// Handles the doorbell of `slot`: reads the slot from `memory` once, and puts the copy in force.
    ///
    /// A slot that cannot be read is off until a later `fetch` reads it. The driver has changed it, so
    /// interrupts on its old message would be wrong. Its interrupts wait meanwhile, in the domain or in the
    /// device.
    ///
    /// Returns the touched vectors also with a refusal, because a refusal turns the slot off.
    pub fn fetch(&self, slot: Vector, memory: &impl GuestAddressSpace) -> (Touched, Result<(), SlotRefusal>) {
        self.queue.lock().fetch(slot, memory)
    }
}

impl From<QueueLayout> for QueueStore {
    fn from(layout: QueueLayout) -> Self {
        Self::new(layout)
    }
}

/// The slots as queue values, without a lock.
#[derive(Debug)]
pub(super) struct Queue {
    /// Empty until the guest sets an address.
    addresses: Vec<Option<SlotAddress>>,
    copies: Slots,
    refusals: u64,
}

impl Queue {
    fn new(layout: &QueueLayout) -> Self {
        Self::of_parts(Vec::new(), Slots::new(layout.copies()))
    }

    pub(super) fn of_parts(addresses: Vec<Option<SlotAddress>>, copies: Slots) -> Self {
        Self { addresses, copies, refusals: 0 }
    }

    pub(super) fn addresses(&self) -> &[Option<SlotAddress>] {
        &self.addresses
    }

    pub(super) fn copies(&self) -> &Slots {
        &self.copies
    }

    fn address(&self, slot: Vector) -> Option<GuestAddress> {
        self.addresses.get(slot.index()).copied().flatten().map(SlotAddress::address)
    }

    fn set_address(&mut self, slot: Vector, address: GuestAddress) -> Result<(), SlotRefusal> {
        self.check(slot)?;
        let Some(valid) = SlotAddress::new(address) else {
            return Err(self.refused(SlotRefusal::Misaligned { slot, address }));
        };
        if self.addresses.is_empty() {
            self.addresses = vec![None; self.capacity() as usize];
        }
        if let Some(entry) = self.addresses.get_mut(slot.index()) {
            *entry = Some(valid);
        }
        Ok(())
    }

    fn clear_address(&mut self, slot: Vector) -> Result<Touched, SlotRefusal> {
        self.check(slot)?;
        if let Some(entry) = self.addresses.get_mut(slot.index()) {
            *entry = None;
        }
        Ok(self.turn_off(slot))
    }

    fn fetch(&mut self, slot: Vector, memory: &impl GuestAddressSpace) -> (Touched, Result<(), SlotRefusal>) {
        match self.check(slot).and_then(|()| self.read(slot, memory)) {
            Ok(read) => (self.copies.put(slot.index(), read), Ok(())),
            Err(refusal) => (self.turn_off(slot), Err(refusal)),
        }
    }

    fn read(&mut self, slot: Vector, memory: &impl GuestAddressSpace) -> Result<Slot, SlotRefusal> {
        let Some(address) = self.address(slot) else {
            return Err(self.refused(SlotRefusal::NoAddress { slot }));
        };
        // Under the lock of these registers: of two concurrent doorbells, the later one has also read the
        // slot later.
        let memory = memory.memory();
        let slices = memory.get_slices(address, SLOT_BYTES as usize, Permissions::Read);
        let bytes = match slices.ok().and_then(|mut slices| slices.next()) {
            Some(Ok(first)) => atomic_read::read(&first).ok_or(SlotRefusal::Straddles { slot, address }),
            Some(Err(_)) | None => Err(SlotRefusal::NotMemory { slot, address }),
        };
        match bytes {
            Ok(bytes) => Ok(Slot::from_memory(bytes, self.copies.layout().control)),
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    /// Turns a slot off. A store without a doorbell since reset is not in use, and stays so.
    fn turn_off(&mut self, slot: Vector) -> Touched {
        if self.copies.vectors() == 0 {
            return Touched::NOTHING;
        }
        self.copies.put(slot.index(), Slot::reset(self.copies.layout().control))
    }

    fn check(&mut self, slot: Vector) -> Result<(), SlotRefusal> {
        let slots = self.capacity();
        if slot.0 < slots { Ok(()) } else { Err(self.refused(SlotRefusal::NoSuchSlot { slot, slots })) }
    }

    fn refused(&mut self, refusal: SlotRefusal) -> SlotRefusal {
        self.refusals.increment();
        refusal
    }

    fn capacity(&self) -> u32 {
        self.copies.layout().slots.get()
    }

    fn reset(&mut self) -> Touched {
        self.addresses = Vec::new();
        self.copies.reset()
    }
}

impl Queue {
    fn to_state(&self) -> QueueState {
        let address = |entry: &Option<SlotAddress>| entry.map(|address| address.address().0);
        QueueState {
            addresses: self.addresses().iter().map(address).collect(),
            copies: self.copies().to_state(),
        }
    }

    fn try_from_state(layout: &QueueLayout, state: &QueueState) -> Result<Self, RestoreError> {
        let QueueState { addresses, copies } = state;
        let (found, expected) = (addresses.len(), layout.slots.get() as usize);
        if found != 0 && found != expected {
            return Err(RestoreError::TableSize { found, expected });
        }
        let parse = |(vector, address): (Vector, &Option<u64>)| match address.map(GuestAddress) {
            None => Ok(None),
            Some(address) => SlotAddress::new(address).map(Some).ok_or(RestoreError::Reserved {
                register: "Address",
                vector,
                found: address.0,
            }),
        };
        let addresses: Result<Vec<_>, RestoreError> = (0..).map(Vector).zip(addresses).map(parse).collect();
        let (addresses, copies) = (addresses?, Slots::try_from_state(&layout.copies(), copies)?);
        // A slot that was never read, or was turned off, has its reset value.
        let unread = Slot::reset(layout.control);
        let has_address = addresses.iter().map(Option::is_some).chain(std::iter::repeat(false));
        let mut copied = (0..).map(Vector).zip(copies.slots()).zip(has_address);
        match copied.find(|((_, slot), has_address)| !has_address && **slot != unread) {
            Some(((vector, _), _)) => Err(RestoreError::NoAddress { vector }),
            None => Ok(Self::of_parts(addresses, copies)),
        }
    }
}

impl Registers for QueueStore {
    type State = QueueState;

    fn capacity(&self) -> u32 {
        self.layout.slots.get()
    }

    fn needs(&self) -> Capabilities {
        self.layout.copies().needs()
    }

    fn state(&self) -> QueueState {
        self.queue.lock().to_state()
    }

    /// Guest memory is not read: the copies of `state` are in force.
    fn restored(&self, state: &QueueState) -> Result<Self, RestoreError> {
        let queue = Queue::try_from_state(&self.layout, state)?;
        Ok(Self { layout: self.layout, queue: Mutex::new(queue) })
    }

    fn replace(&self, other: Self) {
        *self.queue.lock() = other.queue.into_inner();
    }

    fn reset(&self) -> Touched {
        self.queue.lock().reset()
    }
}

/// Reads the copies.
impl Store for QueueStore {
    fn vectors(&self) -> u32 {
        self.queue.lock().copies.vectors()
    }

    fn delivery(&self, vector: Vector) -> Delivery {
        self.queue.lock().copies.delivery(vector)
    }

    fn cookie(&self, vector: Vector) -> Option<Cookie> {
        self.queue.lock().copies.cookie(vector)
    }

    fn answer(&self, vector: Vector) -> (Delivery, Option<Cookie>) {
        self.queue.lock().copies.answer(vector)
    }
}
