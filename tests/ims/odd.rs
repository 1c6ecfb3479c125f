//! A store that is defined outside the crate, by the same traits and on the same domain. Its entries have 8 bytes, of which it keeps
//! destination and vector. Its mask bits are in another register and inverted.

use std::sync::{Arc, Mutex, MutexGuard};

use vm_msi::backend::{Capabilities, Growth};
use vm_msi::delivery::Touched;
use vm_msi::domain::{DeviceDomain, SoftwareDomain};
use vm_msi::state::RestoreError;
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{Delivery, InterruptFunction, MsiMessage, Registers, Store, Vector};

/// 16 entries of destination and vector, and a register that has a bit for each that may signal. The store owns the mutex around
/// them.
#[derive(Debug, Default)]
struct Doorbells(Mutex<Plain>);

/// The registers' values.
#[derive(Clone, Debug, Default, PartialEq)]
struct Plain {
    entries: [(u8, u8); 16],
    enabled: u16,
}

impl Doorbells {
    fn set_entry(&self, vector: u32, destination: u8, interrupt: u8) -> Touched {
        self.plain().entries[vector as usize] = (destination, interrupt);
        Touched::one(Vector(vector))
    }

    fn set_enabled(&self, enabled: u16) -> Touched {
        self.plain().enabled = enabled;
        Touched::first(16)
    }

    fn plain(&self) -> MutexGuard<'_, Plain> {
        self.0.lock().unwrap()
    }
}

impl Store for Doorbells {
    fn vectors(&self) -> u32 {
        16
    }

    fn delivery(&self, vector: Vector) -> Delivery {
        let plain = self.plain();
        match plain.entries.get(vector.index()) {
            None | Some((_, 0)) => Delivery::Off,
            Some(_) if plain.enabled >> vector.0 & 1 == 0 => Delivery::Held,
            Some((destination, interrupt)) => Delivery::Live(message(*destination, *interrupt)),
        }
    }
}

impl Registers for Doorbells {
    type State = Plain;

    fn capacity(&self) -> u32 {
        16
    }

    fn needs(&self) -> Capabilities {
        Capabilities {
            vectors: 16,
            growth: Growth::Dynamic,
            independent: true,
            multi_message: false,
            ims: true,
            cookies: false,
        }
    }

    fn state(&self) -> Plain {
        self.plain().clone()
    }

    fn restored(&self, state: &Plain) -> Result<Self, RestoreError> {
        Ok(Self(Mutex::new(state.clone())))
    }

    fn replace(&self, other: Self) {
        *self.plain() = other.0.into_inner().unwrap();
    }

    fn reset(&self) -> Touched {
        *self.plain() = Plain::default();
        Touched::first(16)
    }
}

fn message(destination: u8, interrupt: u8) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000 | u64::from(destination) << 12, data: interrupt.into() }
}

#[test]
fn a_store_of_another_shape_runs_on_the_domain_of_a_device() {
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = FakeBackend::new(failures);
    let function: InterruptFunction<Doorbells, DeviceDomain> =
        InterruptFunction::try_new(Doorbells::default(), router.clone(), device.clone()).unwrap();
    let raise = |vector| {
        device.raise(Vector(vector));
        router.pump();
        router.take_delivered()
    };
    function.change(|doorbells| doorbells.set_entry(9, 2, 0x41));
    assert_eq!((raise(9), function.pending(0)), (vec![], 1 << 9));
    function.change(|doorbells| doorbells.set_enabled(1 << 9));
    assert_eq!((router.take_delivered(), function.pending(0)), (vec![message(2, 0x41)], 0));
    function.change(|doorbells| doorbells.set_entry(9, 3, 0x42));
    assert_eq!(raise(9), [message(3, 0x42)]);
    assert_eq!(function.look(|doorbells| doorbells.plain().entries[9]), (3, 0x42));

    let state = function.suspend().unwrap();
    function.reset(|| device.reset());
    assert_eq!(device.in_use(), (0, true), "it has nothing to turn off");
    function.restore(&state).unwrap();
    vm_msi::state::resume_all(&*router, [&function as &dyn vm_msi::state::Resume]);
    assert_eq!(raise(9), [message(3, 0x42)]);
}

#[test]
fn a_store_of_another_shape_runs_on_the_domain_of_a_device_model() {
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function: InterruptFunction<Doorbells, SoftwareDomain> =
        InterruptFunction::try_software(Doorbells::default(), router.clone()).unwrap();
    function.change(|doorbells| doorbells.set_entry(9, 2, 0x41));
    function.trigger(Vector(9));
    assert_eq!((router.take_delivered(), function.pending(0)), (vec![], 1 << 9));
    function.change(|doorbells| doorbells.set_enabled(1 << 9));
    assert_eq!(router.take_delivered(), [message(2, 0x41)]);
}
