//! A host that does not let go: a function that cannot be suspended runs on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_msi::apic::ApicMessage;
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::router::{Route, RouterError};
use vm_msi::state::{RestoreError, Resume, resume_all};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiMessage, MsixFunction, Router, Vector};
use vmm_sys_util::eventfd::EventFd;

/// A router that refuses to detach while it is told so.
struct Clinging {
    router: FakeRouter,
    clings: AtomicBool,
}

impl Router for Clinging {
    fn publish(&self, messages: &[ApicMessage], routes: &mut Vec<Result<Route, RouterError>>) {
        self.router.publish(messages, routes);
    }

    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        self.router.attach(eventfd, route)
    }

    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        if self.clings.load(Ordering::Relaxed) {
            let source = io::Error::from_raw_os_error(12);
            return Err(RouterError::Detach { gsi: route.gsi(), source });
        }
        self.router.detach(eventfd, route)
    }

    fn withdraw(&self, route: Route) {
        self.router.withdraw(route);
    }

    fn signal(&self, message: ApicMessage) -> Result<(), RouterError> {
        self.router.signal(message)
    }
}

#[test]
fn a_function_that_cannot_be_suspended_says_why_and_runs_on() {
    let bar = Bar::new(0).unwrap();
    let layout = Layout::new(TableSize::new(4).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
    let failures = Failures::default();
    let router =
        Arc::new(Clinging { router: FakeRouter::new(failures.clone()), clings: AtomicBool::new(false) });
    let device = FakeBackend::new(failures);
    let function = MsixFunction::new(layout, router.clone(), device.clone());
    let power_on = function.suspend().unwrap();
    resume_all(&*router, [&function as &dyn Resume]);
    function.write_config(2, &0x8000u16.to_le_bytes());
    let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
    function.write_table(32, &message.address.to_le_bytes());
    function.write_table(40, &u64::from(message.data).to_le_bytes());

    router.clings.store(true, Ordering::Relaxed);
    let error = function.suspend().unwrap_err();
    assert_eq!(error.vector, Vector(2));
    assert!(error.to_string().contains("vector 2 is still delivered: KVM_IRQFD"), "{error}");
    assert!(matches!(function.restore(&power_on), Err(RestoreError::Suspend(_))));
    device.raise(Vector(2));
    router.router.pump();
    assert_eq!((router.router.take_delivered(), function.unsettled()), (vec![message], 0));

    router.clings.store(false, Ordering::Relaxed);
    let state = function.suspend().unwrap();
    device.raise(Vector(2));
    router.router.pump();
    assert_eq!(router.router.take_delivered(), []);
    function.restore(&state).unwrap();
}
