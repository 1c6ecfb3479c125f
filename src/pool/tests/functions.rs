//! Functions of several vectors: their counting, their windows, and a host that refuses.

use super::*;
use crate::backend::{EventfdSet, Programming, StableEventfds};

#[test]
fn a_function_counts_its_vectors_from_0_and_tells_where_they_are() {
    let (device, pool, _) = device();
    let mut function = LogicalFunction::new([at(&pool, 9), at(&pool, 2), at(&pool, 5)]);
    let vector_map = function.vector_map();
    let all: Vec<_> = (0..4).map(|vector| host(vector_map.get(Vector(vector)))).collect();
    assert_eq!(all, [Some(9), Some(2), Some(5), None]);

    let eventfds = [eventfd(), eventfd(), eventfd()];
    function.open(3).unwrap();
    for (vector, eventfd) in (0..).map(Vector).zip(&eventfds) {
        function.bind(vector, eventfd).unwrap();
    }
    device.raise(Vector(2));
    assert_eq!(eventfds.each_ref().map(taken), [0, 1, 0]);
    assert!(matches!(
        function.bind(Vector(3), &eventfd()),
        Err(BackendError::BeyondReservation { vector: Vector(3), reserved: 3 })
    ));

    drop(function);
    assert_eq!(host(vector_map.get(Vector(0))), None, "it is gone");
    assert_eq!(device.in_use(), (0, false));
    assert_eq!(pool.report().vectors, []);
}

#[test]
fn the_device_is_on_while_any_function_is_and_closing_one_leaves_the_others_alone() {
    let (device, pool, _) = device();
    let mut functions = [3, 4].map(|vector| LogicalFunction::new([at(&pool, vector)]));
    let eventfds = [eventfd(), eventfd()];
    for (function, eventfd) in functions.iter_mut().zip(&eventfds) {
        function.open(1).unwrap();
        function.bind(Vector(0), eventfd).unwrap();
    }
    functions[0].close().unwrap();
    assert_eq!(device.in_use(), (1, true));
    device.raise(Vector(3));
    device.raise(Vector(4));
    assert_eq!(eventfds.each_ref().map(taken), [0, 1]);
    assert_eq!(functions[0].pending(0), 1, "it waits in the device");

    functions[1].close().unwrap();
    assert_eq!(device.in_use(), (0, false));
    functions[0].open(1).unwrap();
    functions[0].bind(Vector(0), &eventfds[0]).unwrap();
    assert_eq!(taken(&eventfds[0]), 1, "what waited has come");
    assert_eq!(pool.report().counters.opens, 2);
}

#[test]
fn a_function_may_have_vectors_of_several_devices() {
    let ((one, first, _), (two, second, _)) = (device(), device());
    let mut function = LogicalFunction::new([at(&first, 7), at(&second, 7), at(&first, 1)]);
    let eventfds = [eventfd(), eventfd(), eventfd()];
    function.open(3).unwrap();
    one.raise(Vector(1));
    two.raise(Vector(7));
    assert_eq!(function.pending(0), 0b110);
    for (vector, eventfd) in (0..).map(Vector).zip(&eventfds) {
        function.bind(vector, eventfd).unwrap();
    }
    assert_eq!(eventfds.each_ref().map(taken), [0, 1, 1]);
    assert_eq!(function.vector_map().get(Vector(1)).unwrap().pool, second);
    function.close().unwrap();
    assert_eq!((one.in_use(), two.in_use()), ((0, false), (0, false)));
}

#[test]
fn a_vector_that_the_host_does_not_take_back_is_nobodys_until_it_does() {
    let (device, pool, failures) = device();
    let mut on = LogicalFunction::new([at(&pool, 0)]);
    let mut function = LogicalFunction::new([at(&pool, 1)]);
    let own = eventfd();
    on.open(1).unwrap();
    function.open(1).unwrap();
    function.bind(Vector(0), &own).unwrap();
    failures.schedule(0b11);
    drop(function);
    assert_eq!((device.in_use(), pool.failed_steps()), ((1, true), 1));
    assert!(pool.alloc_any(1..3).is_ok_and(|handle| handle.host_vector() == HostVector(2)));
    failures.schedule(0b1);
    assert!(matches!(pool.alloc_at(HostVector(1)), Err(PoolError::Orphaned { .. })));
    pool.retry();
    assert_eq!((device.in_use(), pool.failed_steps()), ((0, true), 0));
    assert_eq!(at(&pool, 1).host_vector(), HostVector(1));
}

#[test]
fn a_device_that_the_host_does_not_turn_off_is_tried_again() {
    let (device, pool, failures) = device();
    let mut function = LogicalFunction::new([at(&pool, 1)]);
    function.open(1).unwrap();
    // At closing, and twice when it is dropped.
    failures.schedule(0b111);
    assert!(matches!(function.close(), Err(BackendError::Close { unbound, .. }) if unbound.is_empty()));
    drop(function);
    assert_eq!((device.in_use(), pool.failed_steps()), ((0, true), 1));
    assert!(pool.report().error.is_some());
    pool.retry();
    assert_eq!((device.in_use(), pool.failed_steps()), ((0, false), 0));
}

#[test]
fn closing_names_the_vectors_that_were_unbound_when_the_host_refused() {
    let (device, pool, failures) = device();
    let mut on = LogicalFunction::new([at(&pool, 0)]);
    let mut function = LogicalFunction::new([at(&pool, 1), at(&pool, 2), at(&pool, 3)]);
    let eventfds = [eventfd(), eventfd(), eventfd()];
    on.open(1).unwrap();
    function.open(3).unwrap();
    for (vector, eventfd) in (0..).map(Vector).zip(&eventfds) {
        function.bind(vector, eventfd).unwrap();
    }
    failures.schedule(0b10);
    let Err(BackendError::Close { unbound, .. }) = function.close() else { panic!("it was refused") };
    assert_eq!(unbound, [Vector(0)]);
    assert_eq!(device.in_use(), (2, true));
    function.close().unwrap();
    assert_eq!(device.in_use(), (0, true));
}

/// The device refuses to turn off after it has unbound some vectors: the pool of a device that is a pool's function in turn, or one
/// whose producers are told one by one.
#[test]
fn vectors_that_a_refused_close_of_the_device_has_unbound_may_be_bound_again() {
    let (device, pool, failures) = device();
    let mut function = LogicalFunction::new([at(&pool, 1), at(&pool, 2), at(&pool, 3)]);
    let eventfds = [eventfd(), eventfd(), eventfd()];
    function.open(3).unwrap();
    for (vector, eventfd) in (0..).map(Vector).zip(&eventfds) {
        function.bind(vector, eventfd).unwrap();
    }
    failures.schedule(0b1);
    let Err(BackendError::Close { unbound, .. }) = function.close() else { panic!("it was refused") };
    assert_eq!(unbound, [Vector(0), Vector(2)], "what the fake unbinds where it refuses");
    assert_eq!(device.in_use(), (1, true));
    function.bind(Vector(2), &eventfds[2]).unwrap();
    device.raise(Vector(3));
    device.raise(Vector(2));
    assert_eq!((taken(&eventfds[2]), taken(&eventfds[1])), (1, 1));
    function.close().unwrap();
    assert_eq!(device.in_use(), (0, false));
}

#[test]
fn a_functions_cookies_are_its_vectors_wherever_they_are() {
    let (device, pool, _) = device();
    let (parent, _physical) = parent(&pool);
    let mut function = LogicalFunction::new([at(&pool, 9)]).and_on_demand(2, &parent);
    let vector_map = function.vector_map();
    function.open(3).unwrap();
    function.set_cookie(Vector(0), Some(Cookie(5))).unwrap();
    assert_eq!(device.cookie(Vector(9)), Some(Cookie(5)));

    function.set_cookie(Vector(2), Some(Cookie(6))).unwrap();
    function.bind(Vector(2), &eventfd()).unwrap();
    assert_eq!(host(vector_map.get(Vector(2))), Some(1));
    assert_eq!(device.cookie(Vector(1)), Some(Cookie(6)), "from its first eventfd on");

    function.unbind(Vector(2)).unwrap();
    let other = parent.alloc_any().unwrap();
    assert_eq!(
        device.cookie(Vector(other.host_vector().0)),
        None,
        "it was the function's, not the host vector's"
    );
    function.bind(Vector(2), &eventfd()).unwrap();
    let bound = host(vector_map.get(Vector(2))).map(Vector);
    assert_eq!(bound.and_then(|vector| device.cookie(vector)), Some(Cookie(6)), "also on another one");

    function.unbind(Vector(2)).unwrap();
    function.set_cookie(Vector(2), None).unwrap();
    function.bind(Vector(2), &eventfd()).unwrap();
    let bound = host(vector_map.get(Vector(2))).map(Vector);
    assert_eq!(bound.and_then(|vector| device.cookie(vector)), None);
    assert!(matches!(
        function.set_cookie(Vector(3), None),
        Err(BackendError::BeyondReservation { vector: Vector(3), reserved: 3 })
    ));
}

#[test]
fn a_cookie_that_the_device_has_no_place_for_is_refused_by_the_functions_number() {
    let (_, pool, _) = device_with(Capabilities { cookies: false, ..DYNAMIC });
    let (parent, _physical) = parent(&pool);
    let mut function = LogicalFunction::new([at(&pool, 9)]).and_on_demand(1, &parent);
    function.open(2).unwrap();
    let refused =
        |vector| move |error| matches!(error, BackendError::NoCookies { vector: v } if v == Vector(vector));
    assert!(function.set_cookie(Vector(0), Some(Cookie(5))).is_err_and(refused(0)));
    assert!(
        function.set_cookie(Vector(1), Some(Cookie(5))).is_err_and(refused(1)),
        "also while it has no host vector"
    );
    assert!(!function.capabilities().cookies);
}

/// A producer of 8 stable eventfds, its pool, and a function over vectors 1 and 6, of which the second is on demand.
fn of_stable_eventfds() -> (EventfdSet, Pool, LogicalFunction) {
    let producer = EventfdSet::new(8).unwrap();
    let pool = Pool::new(StableEventfds::new(producer.clone()));
    let table = Arc::new(pool.reserve(0..8).unwrap());
    let [management, fixed] = [0, 1].map(|vector| table.alloc_at(HostVector(vector)).unwrap());
    let mut physical = LogicalFunction::new([management]);
    physical.open(1).unwrap();
    let parent = Parent::enable(table, HostVector(0)).unwrap();
    (producer, pool, LogicalFunction::new([fixed]).and_on_demand(1, &parent))
}

#[test]
fn a_functions_eventfds_are_those_of_the_device() {
    let (producer, _pool, mut function) = of_stable_eventfds();
    function.open(2).unwrap();
    let eventfds = [0, 1].map(|vector| function.eventfd(Vector(vector)).unwrap());
    assert_eq!(host(function.vector_map().get(Vector(1))), Some(2), "taken for its eventfd");
    [0, 1].into_iter().for_each(|vector| {
        function.bind(Vector(vector), &eventfds[vector as usize]).unwrap();
    });
    producer.get(Vector(1)).unwrap().write(1).unwrap();
    assert_eq!(eventfds.each_ref().map(taken), [1, 0]);
    producer.get(Vector(2)).unwrap().write(1).unwrap();
    assert_eq!(eventfds.each_ref().map(taken), [0, 1]);
}

#[test]
fn a_functions_reset_forgets_what_waits_for_its_own_vectors_and_no_others() {
    let (producer, _pool, mut function) = of_stable_eventfds();
    [1, 5].into_iter().for_each(|vector| producer.get(Vector(vector)).unwrap().write(1).unwrap());
    assert_eq!((function.pending(0), function.pending_to_save(0)), (1, 1));
    function.clear_pending(0..2);
    assert_eq!((function.pending(0), producer.waiting(0)), (0, 1 << 5));
}

#[test]
fn what_a_stable_eventfd_holds_is_not_for_the_next_holder() {
    let (producer, pool, function) = of_stable_eventfds();
    drop(function);
    let strays = pool.report().counters.strays;
    producer.get(Vector(1)).unwrap().write(1).unwrap();
    let mut next = LogicalFunction::new([at(&pool, 1)]);
    assert_eq!((next.pending(0), pool.report().counters.strays), (0, strays + 1));
}

#[test]
fn a_function_asks_the_device_whether_it_has_its_vectors_message() {
    let (_producer, _pool, mut stable) = of_stable_eventfds();
    let (_, pool, _) = device();
    let mut other = LogicalFunction::new([at(&pool, 3)]);
    for (function, answer) in [(&mut stable, Programming::Kept), (&mut other, Programming::Unknown)] {
        function.open(1).unwrap();
        function.bind(Vector(0), &eventfd()).unwrap();
        assert_eq!(function.vector_programming(Vector(0)), answer);
    }
    assert_eq!(stable.vector_programming(Vector(1)), Programming::Unknown, "it has no host vector");
}
