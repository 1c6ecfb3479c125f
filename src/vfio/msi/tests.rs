//! MSI over a fake host that follows the kernel's rules.

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::super::fake_host::{Answer, EINTR, EINVAL, EMFILE, ENOSPC, FakeHost};
use super::super::set_irqs::IrqInfo;
use super::*;

fn host_of(vectors: u32) -> FakeHost {
    FakeHost::new(IrqInfo { vectors, dynamic: false })
}

fn count(messages: u32) -> MessageCount {
    MessageCount::new(messages).unwrap()
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

fn msi_of(host: &FakeHost, messages: u32) -> VfioMsi {
    VfioMsi::with_calls(Box::new(host.clone()), count(messages), Some(0x60)).unwrap()
}

/// The errno of a kernel error.
fn errno(error: &BackendError) -> Option<i32> {
    use std::error::Error;
    error.source()?.downcast_ref::<std::io::Error>()?.raw_os_error()
}

#[test]
fn making_a_backend_calls_no_set_irqs() {
    let host = host_of(8);
    let msi = msi_of(&host, 4);
    assert_eq!((msi.capabilities().vectors, host.calls()), (4, 0));
}

#[test]
fn more_messages_than_the_device_supports_are_refused() {
    let made = VfioMsi::with_calls(Box::new(host_of(4)), count(8), None);
    assert!(matches!(made, Err(VfioError::TooManyMessages { messages: 8, asked: 4 })));
    let made = VfioMsi::with_calls(Box::new(host_of(0)), count(1), None);
    assert!(matches!(made, Err(VfioError::NoVectors)));
}

#[test]
fn a_probe_tells_what_the_host_gives_and_leaves_msi_off() {
    for (available, messages) in [(32, 32), (31, 16), (3, 2), (1, 1)] {
        let host = host_of(32);
        host.state().available = [available].into();
        assert_eq!(probe_messages(&host).unwrap(), count(messages));
        assert!(!host.is_enabled(), "{available} available");
    }
}

#[test]
fn a_probe_fails_if_the_host_has_no_interrupt_or_another_index_is_enabled() {
    let host = host_of(4);
    host.state().available = [0].into();
    assert!(matches!(probe_messages(&host), Err(VfioError::Probe(_))));
    let host = host_of(4);
    host.state().other_index = true;
    assert!(matches!(probe_messages(&host), Err(VfioError::Probe(_))));
}

#[test]
fn messages_are_reserved_all_or_nothing_and_requested_again() {
    let host = host_of(8);
    host.state().available = [4, 8].into();
    let mut msi = msi_of(&host, 8);
    let refused = msi.open(8).unwrap_err();
    assert!(matches!(refused, BackendError::Open { asked: 8, .. }));
    assert_eq!((errno(&refused), host.is_enabled()), (Some(ENOSPC), false));
    msi.open(8).unwrap();
    msi.bind(Vector(7), &eventfd()).unwrap();
    assert_eq!((host.bound(), host.enables()), (vec![7], vec![8, 8]));
}

#[test]
fn a_vector_beyond_the_open_window_does_not_reach_the_kernel() {
    let host = host_of(8);
    let mut msi = msi_of(&host, 8);
    let beyond = |bound| matches!(bound, Err(BackendError::BeyondReservation { .. }));
    assert!(beyond(msi.bind(Vector(0), &eventfd())), "closed");
    msi.unbind(Vector(0)).unwrap();
    assert_eq!((host.calls(), host.is_enabled()), (0, false));
    msi.open(4).unwrap();
    assert!(beyond(msi.bind(Vector(4), &eventfd())));
    assert_eq!(host.calls(), 1);
}

#[test]
fn a_refused_bind_is_a_typed_error() {
    let host = host_of(8);
    let mut msi = msi_of(&host, 8);
    msi.open(8).unwrap();
    for reason in [EINTR, ENOSPC, EMFILE, EINVAL] {
        host.state().answers = [Answer::Error(reason)].into();
        let refused = msi.bind(Vector(2), &eventfd()).unwrap_err();
        assert!(matches!(refused, BackendError::Bind { vector: Vector(2), .. }));
        assert_eq!(errno(&refused), Some(reason));
    }
    host.state().answers = [Answer::Count(3)].into();
    assert!(matches!(msi.bind(Vector(2), &eventfd()), Err(BackendError::Bind { vector: Vector(2), .. })));
    assert!(host.bound().is_empty());
}

#[test]
fn a_window_that_did_not_close_closes_at_the_next_try() {
    let host = host_of(2);
    let mut msi = msi_of(&host, 2);
    msi.open(2).unwrap();
    host.state().answers = [Answer::Error(EINTR)].into();
    assert!(matches!(msi.close(), Err(BackendError::Close { .. })));
    msi.bind(Vector(1), &eventfd()).unwrap();
    msi.close().unwrap();
    assert!(!host.is_enabled());
    msi.close().unwrap();
}

#[test]
fn pending_bits_are_the_devices_and_0_if_it_does_not_answer() {
    let host = host_of(8);
    let mut msi = msi_of(&host, 8);
    assert_eq!(msi.pending(0), 0);
    host.set_file(0x60, &[0x81, 0, 0, 0]);
    assert_eq!((msi.pending(0), msi.pending(1)), (0x81, 0));
}

#[test]
fn setting_the_enable_bit_again_writes_it_to_the_device_with_the_open_messages() {
    const CONTROL: u64 = 0x52;
    let host = host_of(8);
    host.set_file(CONTROL, &[0; 2]);
    let mut msi = msi_of(&host, 8).with_message_control(CONTROL);
    assert_eq!(msi.enable_programming(), Programming::Unknown, "MSI is off in the host");
    msi.open(4).unwrap();
    assert_eq!(msi.enable_programming(), Programming::Kept);
    assert_eq!(msi.vectors.read(CONTROL), Some([0x21, 0]), "enabled, with 4 messages");
    let mut unknown = msi_of(&host_of(8), 8);
    unknown.open(8).unwrap();
    assert_eq!(unknown.enable_programming(), Programming::Unknown, "nobody said where the register is");
}
