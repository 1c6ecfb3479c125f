//! Slots in guest memory: each where its driver has placed it, and as it was when the driver last rang for it.
//!
//! A driver places a slot, writes it, and tells the device by a command, most simply one register write. Then, and never
//! else, the device reads the slot: once, whole, under the lock of these registers. What a domain sees is that copy, so a
//! guest that rewrites its slot changes nothing until it rings again, and what it rewrites while the device reads harms
//! only itself. Nothing is written to guest memory.
//!
//! Invariant: a slot that is nowhere is off, and so is one that could not be read when it was rung for.

use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemory, Permissions};

use super::array::Slots;
use super::atomic_read;
use super::layout::{QueueLayout, SLOT_BYTES};
use super::place::{SlotAddress, SlotRefusal};
use super::slot::Slot;
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
/// // What a driver does: it says where slot 7 is, writes it, and rings.
/// ims.place(Vector(7), GuestAddress(0x4560)).unwrap();
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
    plain: Mutex<Queue>,
}

impl QueueStore {
    /// Slots after power-on: none is placed, and the store is not in use.
    pub fn new(layout: QueueLayout) -> Self {
        Self { layout, plain: Mutex::new(Queue::new(&layout)) }
    }

    /// How many slots there are, and what their control is.
    pub fn layout(&self) -> &QueueLayout {
        &self.layout
    }

    /// Reads the slots as they were last read, as if they were an array: bytes beyond the last slot read 0. Pending bits read 0:
    /// they belong to the domain.
    pub fn read_copies(&self, offset: u64, data: &mut [u8]) {
        self.plain.lock().copies.read(offset, data);
    }

    /// Where a slot is.
    pub fn address(&self, slot: Vector) -> Option<GuestAddress> {
        self.plain.lock().address(slot)
    }

    /// How many commands were refused since power-on.
    pub fn refusals(&self) -> u64 {
        self.plain.lock().refusals
    }

    /// From now on `slot` is at `address`. What was read of it before stays in force until it is
    /// [fetched](QueueStore::fetch) from there, so a driver that moves a slot misses nothing.
    ///
    /// # Errors
    /// [`SlotRefusal::NoSuchSlot`] or [`SlotRefusal::Misaligned`]; nothing has changed then. Whether there is memory is
    /// asked when it is read.
    pub fn place(&self, slot: Vector, address: GuestAddress) -> Result<(), SlotRefusal> {
        self.plain.lock().place(slot, address)
    }

    /// From now on `slot` is nowhere, and off: what a driver does that frees it, before it uses the memory for something
    /// else.
    ///
    /// # Errors
    /// [`SlotRefusal::NoSuchSlot`].
    pub fn unplace(&self, slot: Vector) -> Result<Touched, SlotRefusal> {
        self.plain.lock().unplace(slot)
    }

    /// The driver rings for `slot`: it is read, now and once, and is in force as it was read. `memory` is asked for as
    /// it is at this moment.
    ///
    /// A slot that cannot be read is off until it is read again: its driver has changed it, so it must not be delivered as
    /// it was. Its interrupts wait meanwhile, in the domain or in the device.
    ///
    /// The refusal comes beside what was touched, because a refusal touches the slot too.
    pub fn fetch(&self, slot: Vector, memory: &impl GuestAddressSpace) -> (Touched, Result<(), SlotRefusal>) {
        self.plain.lock().fetch(slot, memory)
    }
}

impl From<QueueLayout> for QueueStore {
    fn from(layout: QueueLayout) -> Self {
        Self::new(layout)
    }
}

/// The slots as plain values, without a lock.
#[derive(Debug)]
pub(super) struct Queue {
    /// Empty until the guest places one.
    places: Vec<Option<SlotAddress>>,
    copies: Slots,
    refusals: u64,
}

impl Queue {
    fn new(layout: &QueueLayout) -> Self {
        Self::of_parts(Vec::new(), Slots::new(layout.copies()))
    }

    pub(super) fn of_parts(places: Vec<Option<SlotAddress>>, copies: Slots) -> Self {
        Self { places, copies, refusals: 0 }
    }

    pub(super) fn places(&self) -> &[Option<SlotAddress>] {
        &self.places
    }

    pub(super) fn copies(&self) -> &Slots {
        &self.copies
    }

    fn address(&self, slot: Vector) -> Option<GuestAddress> {
        self.places.get(slot.index()).copied().flatten().map(SlotAddress::address)
    }

    fn place(&mut self, slot: Vector, address: GuestAddress) -> Result<(), SlotRefusal> {
        self.check(slot)?;
        let Some(place) = SlotAddress::new(address) else {
            return Err(self.refused(SlotRefusal::Misaligned { slot, address }));
        };
        if self.places.is_empty() {
            self.places = vec![None; self.capacity() as usize];
        }
        if let Some(at) = self.places.get_mut(slot.index()) {
            *at = Some(place);
        }
        Ok(())
    }

    fn unplace(&mut self, slot: Vector) -> Result<Touched, SlotRefusal> {
        self.check(slot)?;
        if let Some(at) = self.places.get_mut(slot.index()) {
            *at = None;
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
            return Err(self.refused(SlotRefusal::Unplaced { slot }));
        };
        // Under the lock of these registers: of two that ring, the one who comes last has read last.
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

    /// A slot that is not in force. A store that nobody has rung for is not used yet, and stays so.
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
        self.places = Vec::new();
        self.copies.reset()
    }
}

impl Queue {
    fn to_state(&self) -> QueueState {
        let address = |place: &Option<SlotAddress>| place.map(|place| place.address().0);
        QueueState {
            addresses: self.places().iter().map(address).collect(),
            copies: self.copies().to_state(),
        }
    }

    fn try_from_state(layout: &QueueLayout, state: &QueueState) -> Result<Self, RestoreError> {
        let QueueState { addresses, copies } = state;
        let (found, expected) = (addresses.len(), layout.slots.get() as usize);
        if found != 0 && found != expected {
            return Err(RestoreError::TableSize { found, expected });
        }
        let place = |(vector, address): (Vector, &Option<u64>)| match address.map(GuestAddress) {
            None => Ok(None),
            Some(address) => SlotAddress::new(address).map(Some).ok_or(RestoreError::Reserved {
                register: "Address",
                vector,
                found: address.0,
            }),
        };
        let places: Result<Vec<_>, RestoreError> = (0..).map(Vector).zip(addresses).map(place).collect();
        let (places, copies) = (places?, Slots::try_from_state(&layout.copies(), copies)?);
        // What was never read, or is no longer in force, is as after a reset.
        let unread = Slot::reset(layout.control);
        let is_placed = places.iter().map(Option::is_some).chain(std::iter::repeat(false));
        let mut copied = (0..).map(Vector).zip(copies.slots()).zip(is_placed);
        match copied.find(|((_, slot), is_placed)| !is_placed && **slot != unread) {
            Some(((vector, _), _)) => Err(RestoreError::Unplaced { vector }),
            None => Ok(Self::of_parts(places, copies)),
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
        self.plain.lock().to_state()
    }

    /// Guest memory is not read: the slots are in force as `state` has them.
    fn restored(&self, state: &QueueState) -> Result<Self, RestoreError> {
        let plain = Queue::try_from_state(&self.layout, state)?;
        Ok(Self { layout: self.layout, plain: Mutex::new(plain) })
    }

    fn replace(&self, other: Self) {
        *self.plain.lock() = other.plain.into_inner();
    }

    fn reset(&self) -> Touched {
        self.plain.lock().reset()
    }
}

/// Answers from the slots as they were last read.
impl Store for QueueStore {
    fn vectors(&self) -> u32 {
        self.plain.lock().copies.vectors()
    }

    fn delivery(&self, vector: Vector) -> Delivery {
        self.plain.lock().copies.delivery(vector)
    }

    fn cookie(&self, vector: Vector) -> Option<Cookie> {
        self.plain.lock().copies.cookie(vector)
    }

    fn answer(&self, vector: Vector) -> (Delivery, Option<Cookie>) {
        self.plain.lock().copies.answer(vector)
    }
}
