//! A function of 70 vectors over fakes, and the accesses that a driver makes.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::state::{Resume, resume_all};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiMessage, MsixFunction, Vector};

pub(crate) const VECTORS: u16 = 70;
pub(crate) const FUNCTION_MASK: u16 = 1 << 14;
pub(crate) const ENABLE: u16 = 1 << 15;

pub(crate) struct Fixture {
    pub(crate) function: Arc<MsixFunction>,
    pub(crate) router: Arc<FakeRouter>,
    device: FakeBackend,
    failures: Failures,
}

impl Fixture {
    pub(crate) fn after_reset() -> Self {
        let layout = Layout::new(TableSize::new(VECTORS).unwrap(), (bar(2), 0x2000), (bar(4), 0x18)).unwrap();
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let device = FakeBackend::new(failures.clone());
        let function = Arc::new(MsixFunction::new(layout, router.clone(), device.clone()));
        Self { function, router, device, failures }
    }

    /// MSI-X on, and `vectors` with messages of their own and unmasked.
    pub(crate) fn using(vectors: impl IntoIterator<Item = u16>) -> Self {
        let fixture = Self::after_reset();
        fixture.set_control(ENABLE);
        for vector in vectors {
            fixture.set_message(vector, message(vector));
            fixture.set_mask(vector, 0);
        }
        fixture
    }

    pub(crate) fn control(&self) -> u16 {
        let mut data = [0; 2];
        self.function.read_config(2, &mut data);
        u16::from_le_bytes(data)
    }

    pub(crate) fn set_control(&self, value: u16) {
        self.function.write_config(2, &value.to_le_bytes());
    }

    pub(crate) fn config(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.function.read_config(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// A register of a table entry: 0 to 2 the message, 3 Vector Control.
    pub(crate) fn register(&self, vector: u16, register: u64) -> u32 {
        let mut data = [0; 4];
        self.function.read_table(u64::from(vector) * 16 + register * 4, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn set_register(&self, vector: u16, register: u64, value: u32) {
        self.function.write_table(u64::from(vector) * 16 + register * 4, &value.to_le_bytes());
    }

    pub(crate) fn set_message(&self, vector: u16, message: MsiMessage) {
        self.set_register(vector, 0, message.address_low());
        self.set_register(vector, 1, message.address_high());
        self.set_register(vector, 2, message.data);
    }

    pub(crate) fn set_mask(&self, vector: u16, control: u32) {
        self.set_register(vector, 3, control);
    }

    /// The device has an interrupt; what the guest gets of it at once.
    pub(crate) fn raise(&self, vector: u16) -> Vec<MsiMessage> {
        self.device.raise(Vector(vector.into()));
        self.router.pump();
        self.delivered()
    }

    pub(crate) fn reset(&self) {
        self.function.reset(|| self.device.reset());
    }

    pub(crate) fn delivered(&self) -> Vec<MsiMessage> {
        self.router.take_delivered()
    }

    /// The host refuses the next calls where a bit is set.
    pub(crate) fn refuse(&self, calls: u32) {
        self.failures.schedule(calls);
    }

    pub(crate) fn resume(&self) {
        resume_all(&*self.router, [&*self.function as &dyn Resume]);
    }

    /// How many vectors have a host vector.
    pub(crate) fn bound(&self) -> usize {
        self.device.in_use().0
    }

    /// Whether the thread that requests host vectors is to do so. There is one from the first time on.
    pub(crate) fn is_told_to_grow(&self) -> bool {
        is_readable(&self.function.deferred_bind_fd().unwrap())
    }

    pub(crate) fn pba(&self) -> u128 {
        let mut data = [0; 16];
        self.function.read_pba(0, &mut data);
        u128::from_le_bytes(data)
    }
}

pub(crate) fn bar(index: u8) -> Bar {
    Bar::new(index).unwrap()
}

/// Whether a descriptor is readable.
pub(crate) fn is_readable(watched: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(watched, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
}

/// A message that no other vector has.
pub(crate) fn message(vector: u16) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000 | u64::from(vector) << 12, data: 0x41 }
}
