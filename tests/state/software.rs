//! The state of a device model's function, which has no eventfds.

use std::sync::Arc;

use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::state::{PendingBits, Resume, resume_all};
use vm_msi::testing::{Failures, FakeRouter};
use vm_msi::{MsiMessage, SoftwareMsix, Vector};

const MESSAGE: MsiMessage = MsiMessage { address: 0xfee0_1000, data: 0x41 };

fn after_reset() -> (SoftwareMsix, Arc<FakeRouter>) {
    let bar = Bar::new(0).unwrap();
    let layout = Layout::new(TableSize::new(70).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
    let router = Arc::new(FakeRouter::new(Failures::default()));
    (SoftwareMsix::software(layout, router.clone()), router)
}

/// MSI-X on, and vector 65 with a message and unmasked.
fn using_vector_65() -> (SoftwareMsix, Arc<FakeRouter>) {
    let (function, router) = after_reset();
    function.write_config(2, &0x8000u16.to_le_bytes());
    function.write_table(65 * 16, &MESSAGE.address.to_le_bytes());
    function.write_table(65 * 16 + 8, &u64::from(MESSAGE.data).to_le_bytes());
    (function, router)
}

#[test]
fn a_trigger_while_suspended_waits_and_comes_once_on_resuming() {
    let (function, router) = using_vector_65();
    function.suspend().unwrap();
    function.trigger(Vector(65));
    function.trigger(Vector(65));
    assert_eq!(router.take_delivered(), []);
    assert_eq!(function.suspend().unwrap().pending, PendingBits(vec![0, 1 << 1]));
    resume_all(&*router, [&function as &dyn Resume]);
    assert_eq!(router.take_delivered(), [MESSAGE]);
    function.trigger(Vector(65));
    assert_eq!(router.take_delivered(), [MESSAGE]);
}

#[test]
fn what_a_device_model_is_owed_comes_once_in_the_function_that_is_restored() {
    for masked in [1, 0] {
        let (function, _) = using_vector_65();
        function.write_table(65 * 16 + 12, &[masked]);
        function.suspend().unwrap();
        function.trigger(Vector(65));
        let state = function.suspend().unwrap();

        let (moved, router) = after_reset();
        moved.restore(&state).unwrap();
        assert_eq!(moved.suspend().unwrap(), state);
        assert_eq!(router.take_delivered(), []);
        resume_all(&*router, [&moved as &dyn Resume]);
        moved.write_table(65 * 16 + 12, &[0]);
        assert_eq!((router.take_delivered(), router.commits()), (vec![MESSAGE], 0));
    }
}
