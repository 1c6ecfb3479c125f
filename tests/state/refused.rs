//! A host that refuses to detach: a function that cannot be suspended keeps running.

use std::sync::Arc;

use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::state::{RestoreError, Resume, resume_all};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiMessage, MsixFunction, Vector};

#[test]
fn a_function_that_cannot_be_suspended_says_why_and_runs_on() {
    let bar = Bar::new(0).unwrap();
    let layout = Layout::new(TableSize::new(4).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = FakeBackend::new(failures.clone());
    let function = MsixFunction::new(layout, router.clone(), device.clone());
    let power_on = function.suspend().unwrap();
    resume_all(&*router, [&function as &dyn Resume]);
    function.write_config(2, &0x8000u16.to_le_bytes());
    let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
    function.write_table(32, &message.address.to_le_bytes());
    function.write_table(40, &u64::from(message.data).to_le_bytes());

    failures.schedule(u32::MAX);
    let error = function.suspend().unwrap_err();
    assert_eq!(error.vector, Vector(2));
    assert!(error.to_string().contains("vector 2 is still delivered: KVM_IRQFD"), "{error}");
    assert!(matches!(function.restore(&power_on), Err(RestoreError::Suspend(_))));
    device.raise(Vector(2));
    router.pump();
    assert_eq!((router.take_delivered(), function.failed_steps()), (vec![message], 0));

    failures.schedule(0);
    let state = function.suspend().unwrap();
    device.raise(Vector(2));
    router.pump();
    assert_eq!(router.take_delivered(), []);
    function.restore(&state).unwrap();
}
