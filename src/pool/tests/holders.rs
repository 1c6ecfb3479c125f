//! One holder a vector: windows, what a vector changes hands with, and cookies.

use super::*;

#[test]
fn a_host_vector_has_one_holder_and_is_free_when_that_lets_go() {
    let (_, pool, _) = device();
    let first = at(&pool, 3);
    assert!(matches!(pool.alloc_at(HostVector(3)), Err(PoolError::InUse { asked: HostVector(3) })));
    assert_eq!(at(&pool, 4).host_vector(), HostVector(4), "given back at once");
    drop(first);
    assert_eq!(at(&pool, 3).host_vector(), HostVector(3));
    assert!(matches!(
        pool.alloc_at(HostVector(16)),
        Err(PoolError::OutOfRange { asked: HostVector(16), vectors: 16 })
    ));
}

#[test]
fn any_vector_of_a_range_is_the_lowest_that_is_free_and_not_reserved() {
    let (_, pool, _) = device();
    let window = pool.reserve(2..4).unwrap();
    let held: Vec<_> =
        (0..4).map(|_| pool.alloc_any(1..6).map(|handle| (handle.host_vector().0, handle))).collect();
    let (held, refused): (Vec<_>, Vec<_>) = held.into_iter().partition(Result::is_ok);
    assert_eq!(held.into_iter().flatten().map(|(vector, _)| vector).collect::<Vec<_>>(), [1, 4, 5]);
    assert!(matches!(refused[0], Err(PoolError::Exhausted { range: std::ops::Range { start: 1, end: 6 } })));
    assert!(pool.alloc_any(2..4).is_err(), "reserved");
    assert_eq!(window.alloc_any().unwrap().host_vector(), HostVector(2));
}

#[test]
fn a_window_is_reserved_whole_or_not_at_all() {
    let (_, pool, _) = device();
    let held = at(&pool, 5);
    assert!(matches!(pool.reserve(4..6), Err(PoolError::InUse { asked: HostVector(5) })));
    assert!(matches!(pool.reserve(14..17), Err(PoolError::OutOfRange { asked: HostVector(16), .. })));
    drop(held);
    let _window = pool.reserve(4..6).unwrap();
    assert!(matches!(pool.reserve(0..5), Err(PoolError::Reserved { asked: HostVector(4) })));
    assert_eq!(at(&pool, 3).host_vector(), HostVector(3), "nothing is left of what was refused");
}

#[test]
fn what_is_held_of_a_window_outlives_it_and_is_everybodys_when_it_is_let_go() {
    let (_, pool, _) = device();
    let window = pool.reserve(4..8).unwrap();
    let held = window.alloc_at(HostVector(6)).unwrap();
    assert!(matches!(window.alloc_at(HostVector(8)), Err(PoolError::Reserved { .. })), "outside");
    assert!(matches!(pool.alloc_at(HostVector(5)), Err(PoolError::Reserved { .. })), "inside");
    drop(window);
    let _other = at(&pool, 5);
    assert!(matches!(pool.alloc_at(HostVector(6)), Err(PoolError::InUse { .. })));
    drop(held);
    assert_eq!(at(&pool, 6).host_vector(), HostVector(6));
}

#[test]
fn a_block_for_multi_message_msi_is_contiguous_and_aligned() {
    let (_, pool, _) = device();
    let _held = at(&pool, 5);
    let block = pool.reserve_block(MessageCount::new(8).unwrap()).unwrap();
    assert_eq!(block.vectors(), 8..16);
    assert_eq!(pool.reserve_block(MessageCount::new(4).unwrap()).unwrap().vectors(), 0..4);
    assert!(matches!(pool.reserve_block(MessageCount::new(8).unwrap()), Err(PoolError::Exhausted { .. })));
}

#[test]
fn what_comes_for_a_vector_that_nobody_holds_is_counted_and_given_to_nobody() {
    let (device, pool, _) = device();
    let mut other = LogicalFunction::new([at(&pool, 0), at(&pool, 4)]);
    let eventfds = [eventfd(), eventfd()];
    other.open(2).unwrap();
    other.bind(Vector(0), &eventfds[0]).unwrap();
    other.bind(Vector(1), &eventfds[1]).unwrap();
    for _ in 0..3 {
        device.raise(Vector(3));
    }
    assert_eq!(eventfds.each_ref().map(taken), [0, 0], "not its neighbours'");
    assert!(pool.report().vectors.iter().any(|entry| entry.vector == HostVector(3) && entry.stray));

    let mut function = LogicalFunction::new([at(&pool, 3)]);
    let own = eventfd();
    function.open(1).unwrap();
    function.bind(Vector(0), &own).unwrap();
    assert_eq!(taken(&own), 0);
    assert_eq!(pool.report().counters.strays, 1);
}

#[test]
fn the_next_holder_gets_what_comes_after_it_was_given_the_vector_and_nothing_from_before() {
    let (device, pool, _) = device();
    let mut last = LogicalFunction::new([at(&pool, 3)]);
    last.open(1).unwrap();
    device.raise(Vector(3));
    drop(last);
    assert_eq!(device.in_use(), (0, false));

    // The device is off: it is turned on for a moment, or the interrupt would be the next holder's.
    let mut next = LogicalFunction::new([at(&pool, 3)]);
    assert_eq!(device.in_use(), (0, false));
    let own = eventfd();
    next.open(1).unwrap();
    assert_eq!(next.pending(0), 0);
    device.raise(Vector(3));
    assert_eq!(next.pending(0), 1);
    next.bind(Vector(0), &own).unwrap();
    assert_eq!(taken(&own), 1);
}

#[test]
fn a_vector_that_cannot_be_cleared_is_given_to_nobody_and_any_other_instead() {
    let (device, pool, failures) = device();
    let mut on = LogicalFunction::new([at(&pool, 0)]);
    on.open(1).unwrap();
    device.raise(Vector(1));
    for calls in [0b1, 0b10] {
        // The host does not take the vector, then does not take it back.
        failures.schedule(calls);
        assert!(matches!(pool.alloc_at(HostVector(1)), Err(PoolError::Unclean { .. })));
    }
    assert_eq!(pool.alloc_any(1..3).unwrap().host_vector(), HostVector(2));
    assert_eq!(pool.failed_steps(), 1, "it is still with the host");
    assert_eq!(at(&pool, 1).host_vector(), HostVector(1), "which takes it back now");
    assert_eq!(pool.failed_steps(), 0);
}

#[test]
fn a_cookie_reaches_the_device_and_ends_with_its_holder() {
    let (device, pool, _) = device();
    let mut handle = at(&pool, 3);
    handle.set_cookie(Some(Cookie(77))).unwrap();
    assert_eq!(device.cookie(Vector(3)), Some(Cookie(77)));
    drop(handle);
    let _next = at(&pool, 3);
    assert_eq!(device.cookie(Vector(3)), None);
}

#[test]
fn a_device_without_a_place_for_cookies_says_so() {
    let (_, pool, _) = device_with(Capabilities { cookies: false, ..DYNAMIC });
    let mut handle = at(&pool, 3);
    assert!(matches!(handle.set_cookie(Some(Cookie(1))), Err(BackendError::NoCookies { vector: Vector(3) })));
    handle.set_cookie(None).unwrap();
}

#[test]
fn any_vector_of_many_is_had_by_reading_the_pending_bits_of_a_few() {
    let (device, pool, _) = device_with(Capabilities { vectors: 2048, ..DYNAMIC });
    let _held: Vec<_> = (0..70).map(|vector| at(&pool, vector)).collect();
    let before = device.reads();
    let handle = pool.alloc_any(0..2048).unwrap();
    assert_eq!(handle.host_vector(), HostVector(70));
    assert!(device.reads() - before <= 2, "{} reads of 64 pending bits", device.reads() - before);
}
