//! MSI-X over a fake host that follows the kernel's rules, and over a table in a file.

use std::os::unix::fs::FileExt;

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::super::fake_host::{Answer, EINTR, EINVAL, EMFILE, ENOSPC, FakeHost};
use super::super::table_mapping::tests::file_of;
use super::*;

const OFFSETS: MsixFileOffsets = MsixFileOffsets { pba: 0x800, table: None, message_control: Some(0x52) };

fn host_of(vectors: u32, dynamic: bool) -> FakeHost {
    FakeHost::new(IrqInfo { vectors, dynamic })
}

fn msix_of(host: &FakeHost) -> VfioMsix {
    let info = info(host).unwrap();
    VfioMsix::with_calls(Box::new(host.clone()), info, OFFSETS, None)
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

/// The errno of a kernel error.
fn errno(error: &BackendError) -> Option<i32> {
    use std::error::Error;
    error.source()?.downcast_ref::<std::io::Error>()?.raw_os_error()
}

fn is_beyond(bound: Result<(), BackendError>, reserved: u32) -> bool {
    matches!(bound, Err(BackendError::BeyondReservation { reserved: are, .. }) if are == reserved)
}

#[test]
fn a_dynamic_host_is_enabled_with_one_vector_and_allocates_in_any_order() {
    let host = host_of(2048, true);
    let mut msix = msix_of(&host);
    msix.open(2048).unwrap();
    for vector in [2047, 3, 0, 1024] {
        msix.bind(Vector(vector), &eventfd()).unwrap();
    }
    assert_eq!((host.enables(), host.bound()), (vec![1], vec![0, 3, 1024, 2047]));
    msix.unbind(Vector(3)).unwrap();
    assert_eq!(host.bound(), [0, 1024, 2047]);
}

#[test]
fn a_noresize_host_reserves_the_table_and_binds_in_any_order() {
    let host = host_of(2048, false);
    let mut msix = msix_of(&host);
    msix.open(2048).unwrap();
    assert!(host.bound().is_empty());
    for vector in [2047, 3, 0, 1024] {
        msix.bind(Vector(vector), &eventfd()).unwrap();
    }
    assert_eq!((host.enables(), host.bound()), (vec![2048], vec![0, 3, 1024, 2047]));
}

#[test]
fn a_noresize_host_refuses_what_it_did_not_reserve() {
    let host = host_of(8, false);
    let calls: &dyn IrqCalls = &host;
    assert_eq!(calls.set_eventfds(Index::Msix, 0, &[-1; 4]).unwrap(), 0);
    let refused = calls.set_eventfds(Index::Msix, 5, &[7]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(EINVAL), "the double is as strict as the kernel");
}

#[test]
fn a_host_that_reserves_fewer_binds_those_and_is_tried_again_at_the_next_open() {
    let host = host_of(64, false);
    host.state().available = [10, 10, 64].into();
    let mut msix = msix_of(&host);
    msix.open(64).unwrap();
    msix.bind(Vector(9), &eventfd()).unwrap();
    assert!(is_beyond(msix.bind(Vector(10), &eventfd()), 10));
    assert_eq!(host.bound(), [9]);
    msix.close().unwrap();
    msix.open(64).unwrap();
    msix.bind(Vector(63), &eventfd()).unwrap();
    assert_eq!(host.enables(), [64, 10, 64]);
}

#[test]
fn a_host_that_gives_fewer_on_the_second_try_too_is_tried_again_later() {
    let host = host_of(64, false);
    host.state().available = [10, 9, 9, 9].into();
    let mut msix = msix_of(&host);
    let refused = msix.open(64).unwrap_err();
    assert!(matches!(refused, BackendError::Open { asked: 64, .. }));
    assert_eq!((errno(&refused), host.is_enabled()), (Some(ENOSPC), false));
    assert!(is_beyond(msix.bind(Vector(0), &eventfd()), 0), "nothing is reserved");
    assert!(!host.is_enabled());
    msix.open(64).unwrap();
    msix.bind(Vector(8), &eventfd()).unwrap();
    assert!(is_beyond(msix.bind(Vector(9), &eventfd()), 9));
}

#[test]
fn a_count_above_the_request_reserves_no_more_than_the_request() {
    let host = host_of(16, false);
    let mut msix = msix_of(&host);
    host.state().answers = [Answer::Count(99)].into();
    msix.open(8).unwrap();
    assert!(is_beyond(msix.bind(Vector(8), &eventfd()), 8));
    let host = host_of(16, true);
    host.state().answers = [Answer::Count(1)].into();
    assert!(matches!(msix_of(&host).open(8), Err(BackendError::Open { asked: 1, .. })));
}

#[test]
fn msix_is_refused_while_another_index_is_enabled() {
    for dynamic in [false, true] {
        let host = host_of(8, dynamic);
        host.state().other_index = true;
        let mut msix = msix_of(&host);
        assert_eq!(errno(&msix.open(8).unwrap_err()), Some(EINVAL));
        host.state().other_index = false;
        msix.open(8).unwrap();
    }
}

#[test]
fn a_refused_bind_or_unbind_is_a_typed_error_and_affects_no_other_vector() {
    for dynamic in [false, true] {
        let host = host_of(8, dynamic);
        let mut msix = msix_of(&host);
        msix.open(8).unwrap();
        msix.bind(Vector(1), &eventfd()).unwrap();
        for reason in [EINTR, ENOSPC, EMFILE] {
            host.state().answers = [Answer::Error(reason)].into();
            let refused = msix.bind(Vector(2), &eventfd()).unwrap_err();
            assert!(matches!(refused, BackendError::Bind { vector: Vector(2), .. }));
            assert_eq!(errno(&refused), Some(reason));
            host.state().answers = [Answer::Error(reason)].into();
            let refused = msix.unbind(Vector(1)).unwrap_err();
            assert!(matches!(refused, BackendError::Unbind { vector: Vector(1), .. }));
        }
        host.state().answers = [Answer::Count(1)].into();
        assert!(matches!(msix.bind(Vector(2), &eventfd()), Err(BackendError::Bind { .. })));
        assert_eq!(host.bound(), [1]);
    }
}

#[test]
fn a_closed_window_makes_no_call_to_the_kernel() {
    let host = host_of(8, true);
    let mut msix = msix_of(&host);
    msix.unbind(Vector(3)).unwrap();
    msix.close().unwrap();
    assert!(is_beyond(msix.bind(Vector(3), &eventfd()), 0));
    assert_eq!(host.calls(), 0);
}

#[test]
fn pending_bits_are_read_by_64() {
    let host = host_of(128, true);
    let mut msix = msix_of(&host);
    host.set_file(0x808, &[2, 0, 0, 0, 0, 0, 0, 0x80]);
    assert_eq!((msix.pending(1), msix.pending(0), msix.pending(u32::MAX)), (0x8000_0000_0000_0002, 0, 0));
}

#[test]
fn message_control_tells_whether_the_device_is_still_enabled() {
    let host = host_of(8, true);
    let mut msix = msix_of(&host);
    assert_eq!(msix.enable_programming(), Programming::Unknown, "the read fails");
    for (control, programming) in [
        (0x8007u16, Programming::Kept),
        (0xc007, Programming::Kept),
        (0x0007, Programming::Lost),
        (0xffff, Programming::Unknown),
    ] {
        host.set_file(0x52, &control.to_le_bytes());
        assert_eq!(msix.enable_programming(), programming, "{control:#x}");
    }
    msix.offsets.message_control = None;
    assert_eq!(msix.enable_programming(), Programming::Unknown);
}

#[test]
fn an_entry_is_compared_with_what_the_host_must_have_written() {
    let host = host_of(3, true);
    let mut msix = msix_of(&host);
    assert_eq!(msix.vector_programming(Vector(1)), Programming::Unknown, "no mapping");
    let file = file_of(0x2000, &[0; 12]);
    msix.table = Some(TableMapping::new(&file, 0x2000, 48).unwrap());
    let mut programming = |entry: [u32; 4]| {
        let bytes: Vec<u8> = entry.into_iter().flat_map(u32::to_le_bytes).collect();
        file.write_all_at(&bytes, 0x2010).unwrap();
        msix.vector_programming(Vector(1))
    };
    assert_eq!(programming([0xfee0_0000, 0, 0x22, 0]), Programming::Kept);
    assert_eq!(programming([0xfee0_0000, 0, 0x22, 1]), Programming::Lost, "masked, as after reset");
    assert_eq!(programming([0, 0, 0, 1]), Programming::Lost);
    assert_eq!(programming([0, 0, 0, 0]), Programming::Lost);
    assert_eq!(programming([0xfee0_0000, 0, 0x22, 0x23 << 16]), Programming::Kept, "a steering tag");
    assert_eq!(programming([u32::MAX; 4]), Programming::Unknown, "the device is gone");
    assert_eq!(msix.vector_programming(Vector(3)), Programming::Unknown, "no such entry");
    file.set_len(0).unwrap();
    assert_eq!(msix.vector_programming(Vector(1)), Programming::Unknown, "the page cannot be read");
}
