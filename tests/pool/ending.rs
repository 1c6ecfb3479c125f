//! A host that refuses to detach an eventfd when a function's interrupts are disabled.

use std::sync::Arc;

use vm_msi::domain::{Cause, State};
use vm_msi::pool::{HostVector, LogicalFunction, Pool};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{Backend, MsiMessage, MsixFunction, Vector};

use crate::layout;

const ENABLE: u16 = 1 << 15;

/// A function over a device whose vector 0 is live, and the failures of its VM.
struct Using {
    function: MsixFunction,
    router: Arc<FakeRouter>,
    device: FakeBackend,
    failures: Failures,
}

impl Using {
    const MESSAGE: MsiMessage = MsiMessage { address: 0xfee0_0000, data: 0x41 };

    fn over(backend: impl Backend + 'static, device: FakeBackend) -> Self {
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let function = MsixFunction::new(layout(1), router.clone(), backend);
        let using = Self { function, router, device, failures };
        using.set_control(ENABLE);
        using.function.write_table(0, &Self::MESSAGE.address.to_le_bytes());
        using.function.write_table(8, &u64::from(Self::MESSAGE.data).to_le_bytes());
        assert_eq!(using.raise(), [Self::MESSAGE]);
        using
    }

    fn set_control(&self, value: u16) {
        self.function.write_config(2, &value.to_le_bytes());
    }

    fn raise(&self) -> Vec<MsiMessage> {
        self.device.raise(Vector(0));
        self.router.pump();
        self.router.take_delivered()
    }

    /// The VM refuses the first `calls` that are made when MSI-X is disabled. The vector stays attached meanwhile, and loses no interrupt when
    /// MSI-X is enabled again.
    fn stays_attached_and_comes_back(&self, calls: u32) {
        // The guest's write looks at the vector once more before it returns.
        let calls = calls << 1 | 1;
        self.failures.schedule(calls);
        self.set_control(0);
        assert_eq!(self.router.in_use(), (1, 1), "neither the eventfd nor its route has gone");
        let report = self.function.report();
        let vector = &report.vectors[0];
        assert_eq!((vector.state, vector.cause), (State::Detaching, Some(Cause::Router)));
        assert_eq!((report.open, report.host_vectors, report.budget.used), (false, 0, 1));
        assert_eq!((self.function.failed_steps(), self.raise()), (1, vec![]));

        // On again, while the host still refuses: what comes waits in the device.
        self.failures.schedule(u32::MAX);
        self.set_control(ENABLE);
        self.failures.schedule(0b1);
        self.function.retry();
        assert_eq!((self.raise(), self.function.failed_steps()), (vec![], 1));
        assert_eq!(self.function.pending(0), 1);
        self.function.retry();
        assert_eq!((self.router.take_delivered(), self.function.failed_steps()), (vec![Self::MESSAGE], 0));
        assert_eq!((self.router.in_use(), self.raise()), ((1, 1), vec![Self::MESSAGE]));

        // Off, and left off: a retry is enough.
        self.failures.schedule(calls);
        self.set_control(0);
        assert_eq!(self.function.failed_steps(), 1);
        self.function.retry();
        assert_eq!((self.router.in_use(), self.function.failed_steps()), ((0, 0), 0));
    }
}

#[test]
fn a_vector_that_the_host_does_not_detach_when_its_function_is_turned_off_ends_later() {
    let device = FakeBackend::new(Failures::default());
    Using::over(device.clone(), device).stays_attached_and_comes_back(0b1);
}

/// Other parts of a device may have a duplicate of the eventfd, so closing it would not end the irqfd.
#[test]
fn a_vector_of_a_part_of_a_device_that_the_host_does_not_detach_ends_later() {
    let device = FakeBackend::new(Failures::default());
    let part = LogicalFunction::new([Pool::new(device.clone()).alloc_at(HostVector(0)).unwrap()]);
    Using::over(part, device).stays_attached_and_comes_back(0b11);
}
