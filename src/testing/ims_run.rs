//! Runs operations on a real array of IMS slots over fakes, and holds it against a model of its own after each.

use std::sync::Arc;

use super::model::clings_to;
use super::{Failures, FakeBackend, FakeRouter};
use crate::apic::ApicMessage;
use crate::backend::Cookie;
use crate::delivery::Vector;
use crate::domain::State;
use crate::function::ImsFunction;
use crate::ims::{Bit, ControlFormat, MaskBit, MaskedWhen, SlotArrayLayout, SlotCount};
use crate::message::MsiMessage;
use crate::state::{Resume, resume_all};

/// What the control DWORD of a run's slots looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum SlotShape {
    /// [`ControlFormat::DSA`].
    Dsa,
    /// Bit 31 clear masks; bit 1 is the pending bit.
    Inverted,
    /// No mask bit; bit 1 is the pending bit.
    NoMask,
}

/// One step. Slots are taken modulo the array's size.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum ImsOp {
    /// The guest writes a slot's message: its own APIC, and this version of it; 0 for none.
    Message {
        /// The slot.
        slot: u16,
        /// Which of several messages of the slot's own.
        version: u8,
    },
    /// The guest writes a slot's control DWORD.
    Control {
        /// The slot.
        slot: u16,
        /// Masked, where there is a mask bit.
        masked: bool,
        /// Its PASID, where there is a place for one; 0 for none.
        pasid: u8,
    },
    /// Any write to the slots.
    Write {
        /// From the first slot.
        offset: u16,
        /// What is written, 0 to 16 bytes of it.
        data: [u8; 16],
        /// How many bytes.
        len: u8,
    },
    /// The device raises a slot's interrupt.
    Raise(u16),
    /// The guest resets the function.
    Reset,
    /// The embedder suspends the function.
    Suspend,
    /// The embedder resumes it.
    Resume,
    /// The function goes to another VM, and the device with it. It stays suspended.
    Restore,
    /// The next host calls fail where a bit is set, lowest first.
    Fail(u8),
    /// The VM has room for so many messages.
    Room(u8),
    /// The embedder tries again what the host refused.
    Retry,
    /// The embedder begins to watch for slots that userspace delivers.
    Watch,
    /// Its event thread delivers what waits for them.
    Deliver,
}

/// The slots as bytes, and what is owed: as simple as it can be.
#[derive(Clone, Debug)]
struct Slots {
    shape: SlotShape,
    bytes: Vec<u8>,
    owed: Vec<bool>,
    /// What the host refuses to detach a slot from.
    clings: Vec<Option<MsiMessage>>,
    used: bool,
    suspended: bool,
}

impl Slots {
    fn new(shape: SlotShape, slots: usize) -> Self {
        let mut control = [0; 16];
        control[12] = u8::from(shape == SlotShape::Dsa);
        let (bytes, owed, clings) = (control.repeat(slots), vec![false; slots], vec![None; slots]);
        Self { shape, bytes, owed, clings, used: false, suspended: false }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let writable: [u8; 4] = match self.shape {
            SlotShape::Dsa => [0x09, 0xf0, 0xff, 0xff],
            SlotShape::Inverted => [0, 0, 0, 0x80],
            SlotShape::NoMask => [0; 4],
        };
        for (at, byte) in (offset..self.bytes.len()).zip(data) {
            self.used = true;
            self.bytes[at] = if at % 16 < 12 { *byte } else { byte & writable[at % 4] };
        }
    }

    fn register(&self, slot: usize, register: usize) -> u32 {
        let at = slot * 16 + register * 4;
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    /// The message that a slot should be live on.
    fn live(&self, slot: usize) -> Option<MsiMessage> {
        let [low, high, data, control] = [0, 1, 2, 3].map(|register| self.register(slot, register));
        let masked = match self.shape {
            SlotShape::Dsa => control & 1 != 0,
            SlotShape::Inverted => control >> 31 == 0,
            SlotShape::NoMask => false,
        };
        let message = MsiMessage::from_registers(low, high, data);
        (!masked && !self.suspended && ApicMessage::try_from(message).is_ok()).then_some(message)
    }

    fn cookie(&self, slot: usize) -> Option<Cookie> {
        let control = self.register(slot, 3);
        (self.shape == SlotShape::Dsa && control & 8 != 0).then_some(Cookie(control >> 12))
    }
}

/// An array of slots over fakes, and the model beside it.
#[derive(Debug)]
pub struct ImsRun {
    function: ImsFunction<FakeRouter, FakeBackend>,
    router: Arc<FakeRouter>,
    backend: FakeBackend,
    failures: Failures,
    model: Slots,
}

impl ImsRun {
    /// An array after power-on, of 1 to 2048 slots.
    pub fn new(shape: SlotShape, slots: u16) -> Self {
        let failures = Failures::default();
        let backend = FakeBackend::new(failures.clone());
        Self::over(failures, backend, Slots::new(shape, slots.into()))
    }

    fn over(failures: Failures, backend: FakeBackend, model: Slots) -> Self {
        let bit = |position| Bit::new(position).expect("a bit of 32");
        let mask = MaskBit { bit: bit(31), masked_when: MaskedWhen::Clear };
        let control = match model.shape {
            SlotShape::Dsa => Ok(ControlFormat::DSA),
            SlotShape::Inverted => ControlFormat::new(Some(mask), Some(bit(1)), None),
            SlotShape::NoMask => ControlFormat::new(None, Some(bit(1)), None),
        };
        let slots = SlotCount::new(model.owed.len() as u32).expect("1 to 2048 slots");
        let layout = SlotArrayLayout { slots, control: control.expect("fields apart") };
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let function = ImsFunction::new(layout, router.clone(), backend.clone());
        Self { function, router, backend, failures, model }
    }

    /// Takes a step and checks everything that can be seen from outside.
    pub fn step(&mut self, op: &ImsOp) {
        let slots = self.model.owed.len();
        match *op {
            ImsOp::Message { slot, version } => {
                let slot = usize::from(slot) % slots;
                let message = match version {
                    0 => MsiMessage::BLANK,
                    _ => {
                        MsiMessage { address: 0xfee0_0000 | (slot as u64 % 256) << 12, data: version.into() }
                    }
                };
                let data = [message.address.to_le_bytes().as_slice(), &message.data.to_le_bytes()].concat();
                self.write(slot * 16, &data);
            }
            ImsOp::Control { slot, masked, pasid } => {
                let pasid = if pasid == 0 { 0 } else { u32::from(pasid) << 12 | 8 };
                let control = match self.model.shape {
                    SlotShape::Dsa => u32::from(masked) | pasid,
                    SlotShape::Inverted => u32::from(!masked) << 31,
                    SlotShape::NoMask => u32::MAX,
                };
                self.write(usize::from(slot) % slots * 16 + 12, &control.to_le_bytes());
            }
            ImsOp::Write { offset, data, len } => {
                self.write(usize::from(offset) % (slots * 16 + 16), &data[..usize::from(len % 17)]);
            }
            ImsOp::Raise(slot) => {
                let slot = usize::from(slot) % slots;
                if self.backend.raise(Vector(slot as u32)) {
                    self.model.owed[slot] = true;
                }
                self.router.pump();
            }
            ImsOp::Reset => {
                let suspended = self.model.suspended;
                self.model = Slots { suspended, ..Slots::new(self.model.shape, slots) };
                self.function.reset(|| self.backend.reset());
            }
            ImsOp::Suspend => {
                let refusing = self.failures.is_scheduled();
                match self.function.suspend() {
                    Ok(_) => self.model.suspended = true,
                    Err(_) => assert!(refusing && !self.model.suspended, "refused, and nothing is scheduled"),
                }
            }
            ImsOp::Resume => self.resume(),
            ImsOp::Restore => self.restore(),
            ImsOp::Fail(calls) => self.failures.schedule(calls.into()),
            ImsOp::Room(messages) => self.router.set_capacity(messages.into()),
            ImsOp::Retry => self.function.retry(),
            ImsOp::Watch => drop(self.function.relay().expect("a descriptor")),
            ImsOp::Deliver => (0..slots.div_ceil(64)).for_each(|_| self.function.deliver()),
        }
        self.check();
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        self.model.write(offset, data);
        self.function.write_slots(offset as u64, data);
    }

    fn resume(&mut self) {
        resume_all(&*self.router, [&self.function as &dyn Resume]);
        self.model.suspended = false;
    }

    fn restore(&mut self) {
        // A function that cannot be suspended runs on.
        let Ok(state) = self.function.suspend() else { return };
        self.model.suspended = true;
        let failures = Failures::default();
        let moved = Self::over(failures.clone(), self.backend.moved(failures), self.model.clone());
        moved.function.restore(&state).expect("a function's own state");
        assert_eq!(moved.function.suspend().expect("nothing to detach"), state, "restored as it was");
        std::mem::replace(self, moved).end();
    }

    /// Lets the host recover, and checks that everything is then as it should be, and given back at the end.
    pub fn finish(mut self) {
        self.failures.schedule(0);
        self.router.set_capacity(usize::MAX);
        self.resume();
        self.function.retry();
        assert_eq!(self.function.unsettled(), 0, "a host that refuses nothing leaves nothing unsettled");
        self.check();
        self.end();
    }

    fn end(self) {
        self.failures.schedule(0);
        let Self { function, router, backend, .. } = self;
        drop(function);
        assert_eq!((router.in_use(), backend.in_use()), ((0, 0), (0, false)), "all was given back");
    }

    fn check(&mut self) {
        let report = self.function.report();
        let state = |slot: usize| report.vectors.iter().find(|vector| vector.vector.index() == slot);
        for message in self.router.take_delivered() {
            // Of slots that share a message: the kernel's have delivered what they had, then userspace's.
            let is_on = |slot: usize| {
                self.model.live(slot) == Some(message) || self.model.clings[slot] == Some(message)
            };
            let owing = (0..self.model.owed.len())
                .filter(|slot| self.model.owed[*slot] && is_on(*slot))
                .min_by_key(|slot| match state(*slot).map(|vector| vector.state) {
                    Some(State::Live) => 0,
                    Some(State::Relayed) => 1,
                    _ => 2,
                });
            let slot = owing.unwrap_or_else(|| panic!("{message} was delivered and no slot owed it"));
            self.model.owed[slot] = false;
        }
        let expected_vectors = if self.model.used { self.model.owed.len() as u32 } else { 0 };
        assert_eq!(self.function.vectors(), expected_vectors);

        let mut bytes = vec![0; self.model.bytes.len()];
        self.function.read_slots(0, &mut bytes);
        let settled = self.function.unsettled() == 0;
        for slot in 0..self.model.owed.len() {
            let pending = bytes[slot * 16 + 12] & 2 != 0;
            bytes[slot * 16 + 12] &= !2;
            let (owed, wanted) = (self.model.owed[slot], self.model.live(slot));
            let clings = state(slot).and_then(clings_to);
            self.model.clings[slot] = clings;
            match state(slot).map(|vector| (vector.state, vector.message)) {
                Some((State::Live, _)) if clings.is_some() => {
                    assert!(
                        !owed && !pending && !settled,
                        "slot {slot} is delivered, and not as the guest wants"
                    );
                }
                Some((State::Live, message)) => {
                    assert_eq!(message, wanted, "slot {slot} is live on what the guest wants");
                    assert!(!owed && !pending, "slot {slot} is live and its interrupt did not come");
                    let cookie = self.backend.cookie(Vector(slot as u32));
                    assert_eq!(cookie, self.model.cookie(slot), "and carries what it wants");
                }
                Some((State::Relayed, message)) => {
                    assert_eq!(message, wanted, "slot {slot} is delivered as the guest wants");
                    assert!(!pending && !settled, "slot {slot} is on its way, and not by the kernel");
                }
                _ => {
                    assert_eq!(pending, owed, "the pending bit of slot {slot}");
                    assert!(!settled || wanted.is_none(), "slot {slot} is as the guest wants it");
                }
            }
        }
        assert_eq!(bytes, self.model.bytes, "the slots read as they were written");
        let ending = report.vectors.iter().filter(|vector| vector.state == State::Ending).count();
        assert!(ending == 0 || !settled, "what the host has refused to detach is tried again");
        let attached = report.live as usize + ending;
        assert_eq!(self.router.in_use(), (attached, attached));
        assert_eq!(self.backend.in_use(), (report.host_vectors as usize, report.open));
    }
}
