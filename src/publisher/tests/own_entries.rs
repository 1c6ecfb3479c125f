//! The embedder's own entries: each commit carries them, and a commit changes them.

use super::*;

fn pins() -> Vec<u32> {
    (0..FIRST_GSI).collect()
}

#[test]
fn each_commit_carries_the_embedders_own_entries() {
    let (routes, kernel) = publisher(1);
    for destination in 0..3 {
        let _ = publish_one(&routes, message(destination, 0x41));
        assert_eq!(kernel.taken().own, pins());
    }
}

#[test]
fn other_own_entries_are_committed_at_once_and_kept_from_then_on() {
    let (routes, kernel) = publisher(1);
    let route = publish_one(&routes, message(0, 0x41));
    let commits = kernel.commits();
    routes.set_own_entries(vec![3, 5]).unwrap();
    assert_eq!((kernel.commits(), kernel.taken().own), (commits + 1, vec![3, 5]));
    assert_eq!(kernel.message(route.gsi()), Some(message(0, 0x41)));
    let _ = publish_one(&routes, message(1, 0x41));
    assert_eq!(kernel.taken().own, [3, 5]);
    assert_agreement(&routes, &kernel);
}

#[test]
fn refused_own_entries_are_reported_and_the_old_ones_stay() {
    let (routes, kernel) = publisher(1);
    let _ = publish_one(&routes, message(0, 0x41));
    kernel.refuse(EINVAL);
    let Err(RouterError::Commit { source, .. }) = routes.set_own_entries(vec![3]) else {
        panic!("they were refused")
    };
    assert_eq!(source.raw_os_error(), Some(EINVAL));
    kernel.take_all();
    assert_eq!(kernel.taken().own, pins());
    let _ = publish_one(&routes, message(1, 0x41));
    assert_eq!(kernel.taken().own, pins());
    assert_agreement(&routes, &kernel);
}

#[test]
fn own_entries_that_are_refused_hold_no_message_back() {
    let (routes, kernel) = publisher(1);
    let _ = publish_one(&routes, message(0, 0x41));
    let commits = threads::pause(&kernel);
    let routes = &routes;
    std::thread::scope(move |scope| {
        let _first = threads::publish(scope, routes, message(1, 0xee));
        let first = threads::next(&commits);
        let entries = scope.spawn(|| routes.set_own_entries(vec![3]));
        let other = threads::publish(scope, routes, message(2, 0xee));
        threads::wait_until_waiting(routes, 2);
        first.take();
        let together = threads::next(&commits);
        assert_eq!(together.table.own, [3]);
        together.refuse(EINVAL);
        let alone = threads::next(&commits);
        assert_eq!(alone.table.own, pins());
        alone.take();
        assert!(threads::got(other).is_ok());
        assert!(matches!(threads::got(entries), Err(RouterError::Commit { .. })));
    });
    assert_agreement(routes, &kernel);
}

#[test]
fn own_entries_of_a_commit_that_panics_are_not_kept() {
    let (routes, kernel) = publisher(1);
    let _ = publish_one(&routes, message(0, 0x41));
    kernel.answer(|_| panic!("a bug in the hypervisor's code"));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| routes.set_own_entries(vec![3])));
    assert!(panicked.is_err());
    kernel.take_all();
    let _ = publish_one(&routes, message(1, 0x41));
    assert_eq!(kernel.taken().own, pins());
    assert_agreement(&routes, &kernel);
}
