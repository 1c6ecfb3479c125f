//! A function with an array of slots over fakes, and the accesses that a driver makes.

use std::sync::Arc;

use vm_msi::backend::{Capabilities, Growth};
use vm_msi::ims::{Bit, ControlFormat, MaskBit, MaskedWhen, SlotArrayLayout, SlotCount};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{ImsFunction, MsiMessage, Vector};

pub(crate) const MASK: u32 = 1;
pub(crate) const PENDING: u32 = 2;

pub(crate) fn layout(slots: u32, control: ControlFormat) -> SlotArrayLayout {
    SlotArrayLayout { slots: SlotCount::new(slots).unwrap(), control }
}

/// Bit 31 clear masks, bit 0 is the pending bit.
pub(crate) fn inverted() -> ControlFormat {
    let mask = MaskBit { bit: Bit::new(31).unwrap(), masked_when: MaskedWhen::Clear };
    ControlFormat::new(Some(mask), Bit::new(0), None).unwrap()
}

/// No mask bit, and bit 1 is the pending bit.
pub(crate) fn without_mask() -> ControlFormat {
    ControlFormat::new(None, Bit::new(1), None).unwrap()
}

/// A message that no other slot has.
pub(crate) fn message(slot: u32) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000 | u64::from(slot % 256) << 12, data: 0x20 + slot / 512 }
}

pub(crate) struct Fixture {
    pub(crate) function: ImsFunction,
    pub(crate) router: Arc<FakeRouter>,
    pub(crate) device: FakeBackend,
    pub(crate) failures: Failures,
}

impl Fixture {
    /// After power-on, with 65,536 slots.
    pub(crate) fn after_reset(control: ControlFormat) -> Self {
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let can = Capabilities {
            vectors: 65_536,
            growth: Growth::Dynamic,
            independent: true,
            multi_message: false,
            ims: true,
            cookies: true,
        };
        let device = FakeBackend::with_capabilities(failures.clone(), can);
        let layout = layout(65_536, control);
        let function = ImsFunction::try_new(layout, router.clone(), device.clone()).unwrap();
        Self { function, router, device, failures }
    }

    /// These slots are in use, each with its own message.
    pub(crate) fn using(slots: impl IntoIterator<Item = u32>) -> Self {
        let fixture = Self::after_reset(ControlFormat::DSA);
        for slot in slots {
            fixture.set_message(slot, message(slot));
            fixture.set_control(slot, 0);
        }
        fixture
    }

    pub(crate) fn register(&self, slot: u32, register: u64) -> u32 {
        let mut data = [0; 4];
        self.function.read_slots(u64::from(slot) * 16 + register * 4, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn set_message(&self, slot: u32, MsiMessage { address, data }: MsiMessage) {
        let at = u64::from(slot) * 16;
        self.function.write_slots(at, &address.to_le_bytes());
        self.function.write_slots(at + 8, &data.to_le_bytes());
    }

    pub(crate) fn control(&self, slot: u32) -> u32 {
        self.register(slot, 3)
    }

    pub(crate) fn set_control(&self, slot: u32, control: u32) {
        self.function.write_slots(u64::from(slot) * 16 + 12, &control.to_le_bytes());
    }

    /// Raises an interrupt, and returns the messages that the guest receives at once.
    pub(crate) fn raise(&self, slot: u32) -> Vec<MsiMessage> {
        self.device.raise(Vector(slot));
        self.delivered()
    }

    pub(crate) fn delivered(&self) -> Vec<MsiMessage> {
        self.router.pump();
        self.router.take_delivered()
    }
}
