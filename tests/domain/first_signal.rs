//! A vector's first signal. KVM may deliver a signal twice if it arrives while the eventfd becomes an irqfd. The domain attaches
//! the eventfd before it gives the eventfd to the device.

use std::sync::{Arc, Mutex};

use vm_msi::backend::{Backend, BackendError, Capabilities};
use vm_msi::msix::{Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiMessage, MsixFunction, Vector};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{ENABLE, Fixture, bar, message};

/// A device that signals each eventfd as soon as it is bound, and the messages that the guest has received by then.
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
    let function = MsixFunction::new(layout, router.clone(), eager);
    function.write_config(2, &ENABLE.to_le_bytes());
    for vector in 0..4 {
        let MsiMessage { address, data } = message(vector);
        function.write_table(u64::from(vector) * 16, &address.to_le_bytes());
        function.write_table(u64::from(vector) * 16 + 8, &u64::from(data).to_le_bytes());
    }
    assert_eq!(*delivered.lock().unwrap(), [0, 1, 2, 3].map(message));
    assert_eq!(router.take_delivered(), [], "and none of them twice");
}

#[test]
fn a_vector_whose_eventfd_is_refused_by_the_kernel_has_a_host_vector_and_is_held() {
    let fixture = Fixture::using([]);
    fixture.set_message(3, message(3));
    // Published, and not attached.
    fixture.refuse(0b010);
    fixture.set_mask(3, 0);
    assert_eq!((fixture.bound(), fixture.function.failed_steps()), (1, 1));
    assert_eq!(
        (fixture.raise(3), fixture.pba()),
        (vec![], 1 << 3),
        "a device without pending bits has lost nothing"
    );
    fixture.function.retry();
    assert_eq!((fixture.delivered(), fixture.pba()), (vec![message(3)], 0));
}

#[test]
fn while_the_host_refuses_vectors_none_is_attached_first() {
    let fixture = Fixture::using([]);
    let error = || fixture.function.report().vectors[0].error.clone().unwrap();
    fixture.set_message(3, message(3));
    // Published and attached, and not bound.
    fixture.refuse(0b100);
    fixture.set_mask(3, 0);
    assert!(error().contains("refused to bind vector 3"), "{}", error());
    // The message is found, so the first call is for the host vector now.
    fixture.refuse(0b1);
    fixture.function.retry();
    assert!(error().contains("refused to bind vector 3"), "{}", error());
    fixture.function.retry();
    assert_eq!((fixture.raise(3), fixture.function.failed_steps()), (vec![message(3)], 0));
    // And for the irqfd again, since the host refuses no more.
    fixture.set_message(4, message(4));
    fixture.refuse(0b10);
    fixture.set_mask(4, 0);
    let error = fixture.function.report().vectors[1].error.clone().unwrap();
    assert!(error.contains("could not attach"), "{error}");
}
