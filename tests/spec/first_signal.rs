//! A vector's first signal. KVM may deliver one twice that comes while its eventfd becomes an irqfd, so a device gets an
//! eventfd that is one already.

use std::sync::{Arc, Mutex};

use vm_msi::backend::{Backend, BackendError, Capabilities};
use vm_msi::msix::{Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiMessage, MsixFunction, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{ENABLE, bar, message};

/// A device that signals each eventfd the moment it gets it, and what the guest has got of that then.
struct Eager {
    device: FakeBackend,
    router: Arc<FakeRouter>,
    delivered: Arc<Mutex<Vec<MsiMessage>>>,
}

impl Backend for Eager {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        self.device.open(vectors)
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        self.device.bind(vector, eventfd)?;
        self.device.raise(vector);
        self.delivered.lock().unwrap().extend(self.router.take_delivered());
        Ok(())
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.device.unbind(vector)
    }

    fn close(&mut self) -> Result<(), BackendError> {
        self.device.close()
    }

    fn pending(&mut self, group: u32) -> u64 {
        self.device.pending(group)
    }
}

#[test]
fn a_device_that_signals_the_moment_it_can_finds_its_interrupt_attached() {
    let (delivered, router) = (Arc::default(), Arc::new(FakeRouter::new(Failures::default())));
    let device = FakeBackend::new(Failures::default());
    let eager = Eager { device, router: Arc::clone(&router), delivered: Arc::clone(&delivered) };
    let layout = Layout::new(TableSize::new(4).unwrap(), (bar(0), 0), (bar(0), 0x8000)).unwrap();
    let function = MsixFunction::new(layout, Arc::clone(&router), eager);
    function.write_config(2, &ENABLE.to_le_bytes());
    for vector in 0..4 {
        let MsiMessage { address, data } = message(vector);
        function.write_table(u64::from(vector) * 16, &address.to_le_bytes());
        function.write_table(u64::from(vector) * 16 + 8, &u64::from(data).to_le_bytes());
    }
    assert_eq!(*delivered.lock().unwrap(), [0, 1, 2, 3].map(message));
    assert_eq!(router.take_delivered(), [], "and none of them twice");
}
