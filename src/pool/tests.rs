//! The rights to a device's vectors, on a fake device that stops at the first broken rule.

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::backend::{BackendError, Cookie, Growth};
use crate::delivery::Vector;
use crate::testing::{Failures, FakeBackend};

const DYNAMIC: Capabilities =
    Capabilities { vectors: 16, growth: Growth::Dynamic, independent: true, multi_message: false };

/// A device of 16 vectors, its pool, and the host's failures.
fn device() -> (FakeBackend, Pool, Failures) {
    device_with(DYNAMIC)
}

fn device_with(capabilities: Capabilities) -> (FakeBackend, Pool, Failures) {
    let failures = Failures::default();
    let device = FakeBackend::with_capabilities(failures.clone(), capabilities);
    (device.clone(), Pool::new(device), failures)
}

/// A device that raises a vector once more when the host takes it back, as one does that nobody has stopped. It has no
/// place for cookies.
struct Restless(FakeBackend);

impl Backend for Restless {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn open(&mut self, vectors: u32) -> Result<(), BackendError> {
        self.0.open(vectors)
    }

    fn bind(&mut self, vector: Vector, eventfd: &EventFd) -> Result<(), BackendError> {
        self.0.bind(vector, eventfd)
    }

    fn unbind(&mut self, vector: Vector) -> Result<(), BackendError> {
        self.0.unbind(vector)?;
        self.0.raise(vector);
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        self.0.close()
    }

    fn pending(&mut self, group: u32) -> u64 {
        self.0.pending(group)
    }
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

/// How many interrupts have come.
fn taken(eventfd: &EventFd) -> u64 {
    eventfd.read().unwrap_or(0)
}

fn at(pool: &Pool, vector: u32) -> VectorHandle {
    pool.alloc_at(HostVector(vector)).unwrap()
}

fn host(vector: Option<Place>) -> Option<u32> {
    vector.map(|place| place.vector.0)
}

/// A parent whose management vector 0 is bound, and the function that holds it.
fn parent(pool: &Pool) -> (Parent, LogicalFunction) {
    let table = Arc::new(pool.reserve(0..8).unwrap());
    let mut physical = LogicalFunction::new([table.alloc_at(HostVector(0)).unwrap()]);
    physical.open(1).unwrap();
    (Parent::enable(table, HostVector(0)).unwrap(), physical)
}

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
    assert!(matches!(refused[0], Err(PoolError::Exhausted { among: std::ops::Range { start: 1, end: 6 } })));
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
fn a_function_counts_its_vectors_from_0_and_tells_where_they_are() {
    let (device, pool, _) = device();
    let mut function = LogicalFunction::new([at(&pool, 9), at(&pool, 2), at(&pool, 5)]);
    let places = function.places();
    let all: Vec<_> = (0..4).map(|vector| host(places.get(Vector(vector)))).collect();
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
    assert_eq!(host(places.get(Vector(0))), None, "it is gone");
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
    assert_eq!(function.places().get(Vector(1)).unwrap().pool, second);
    function.close().unwrap();
    assert_eq!((one.in_use(), two.in_use()), ((0, false), (0, false)));
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
    assert_eq!(pool.unsettled(), 1, "it is still with the host");
    assert_eq!(at(&pool, 1).host_vector(), HostVector(1), "which takes it back now");
    assert_eq!(pool.unsettled(), 0);
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
    assert_eq!((device.in_use(), pool.unsettled()), ((1, true), 1));
    assert!(pool.alloc_any(1..3).is_ok_and(|handle| handle.host_vector() == HostVector(2)));
    failures.schedule(0b1);
    assert!(matches!(pool.alloc_at(HostVector(1)), Err(PoolError::Orphaned { .. })));
    pool.retry();
    assert_eq!((device.in_use(), pool.unsettled()), ((0, true), 0));
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
    assert_eq!((device.in_use(), pool.unsettled()), ((0, true), 1));
    assert!(pool.report().error.is_some());
    pool.retry();
    assert_eq!((device.in_use(), pool.unsettled()), ((0, false), 0));
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

#[test]
fn a_parent_is_refused_where_its_sub_devices_could_not_work() {
    let enable = |capabilities, on: bool, managed: bool| {
        let (_, pool, _) = device_with(capabilities);
        let table = Arc::new(pool.reserve(0..8).unwrap());
        let management = managed.then(|| table.alloc_at(HostVector(0)).unwrap());
        let mut physical =
            LogicalFunction::new([table.alloc_at(HostVector(1)).unwrap()].into_iter().chain(management));
        if on {
            physical.open(2).unwrap();
        }
        Parent::enable(table, HostVector(0)).map(drop)
    };
    let msi = Capabilities { independent: false, multi_message: true, ..DYNAMIC };
    assert_eq!(enable(msi, true, true), Err(ParentError::NotIndependent));
    assert_eq!(enable(DYNAMIC, false, true), Err(ParentError::Off));
    let fixed = Capabilities { growth: Growth::Fixed, ..DYNAMIC };
    assert_eq!(enable(fixed, true, true), Err(ParentError::CannotGrow));
    let expected = HostVector(0);
    assert_eq!(enable(DYNAMIC, true, false), Err(ParentError::NoManagementVector { expected }));
    assert_eq!(enable(DYNAMIC, true, true), Ok(()));
    let reserved = Capabilities { growth: Growth::Reserved, ..DYNAMIC };
    assert_eq!(enable(reserved, true, true), Ok(()), "reserved whole, it grows as well");
}

#[test]
fn a_sub_device_takes_an_entry_when_it_is_bound_and_gives_it_back_when_it_is_unbound() {
    let (device, pool, _) = device();
    let (parent, _physical) = parent(&pool);
    let mut sub_device = parent.sub_device(4);
    let places = sub_device.places();
    sub_device.open(4).unwrap();
    assert_eq!(host(places.get(Vector(2))), None);

    let own = eventfd();
    sub_device.bind(Vector(2), &own).unwrap();
    assert_eq!(host(places.get(Vector(2))), Some(1), "0 is the parent's");
    device.raise(Vector(1));
    assert_eq!(taken(&own), 1);
    assert!(matches!(parent.alloc_at(HostVector(1)), Err(PoolError::InUse { .. })), "it is the child's");

    sub_device.unbind(Vector(2)).unwrap();
    assert_eq!(host(places.get(Vector(2))), None);
    assert_eq!(parent.alloc_at(HostVector(1)).unwrap().host_vector(), HostVector(1));
}

#[test]
fn a_sub_device_keeps_an_entry_that_an_interrupt_waits_for_until_it_has_come_or_is_forgotten() {
    let device = FakeBackend::with_capabilities(Failures::default(), DYNAMIC);
    let pool = Pool::new(Restless(device.clone()));
    let (parent, _physical) = parent(&pool);
    let mut sub_device = parent.sub_device(1);
    let places = sub_device.places();
    let own = eventfd();
    for whole in [false, true] {
        sub_device.open(1).unwrap();
        sub_device.bind(Vector(0), &own).unwrap();
        let place = places.get(Vector(0)).unwrap();
        if whole { sub_device.close() } else { sub_device.unbind(Vector(0)) }.unwrap();
        assert_eq!(sub_device.pending(0), 1);
        assert_eq!(places.get(Vector(0)).as_ref(), Some(&place));
        assert_ne!(parent.alloc_any().unwrap().host_vector(), place.vector);

        sub_device.open(1).unwrap();
        sub_device.bind(Vector(0), &own).unwrap();
        assert_eq!((taken(&own), sub_device.pending(0)), (1, 0));
        sub_device.close().unwrap();
        device.forget(Vector(place.vector.0));
        sub_device.open(1).unwrap();
        assert_eq!(places.get(Vector(0)), None, "given back");
        sub_device.close().unwrap();
    }
}

#[test]
fn a_sub_device_is_never_given_its_parents_management_vector() {
    let (_, pool, _) = device();
    let (parent, physical) = parent(&pool);
    drop(physical);
    assert!(matches!(parent.alloc_at(HostVector(0)), Err(PoolError::Reserved { .. })));
    let mut sub_device = parent.sub_device(8);
    sub_device.open(8).unwrap();
    let bound = (0..8).filter(|vector| sub_device.bind(Vector(*vector), &eventfd()).is_ok());
    assert_eq!(bound.count(), 7);
    assert!(parent.alloc_any().is_err());
}

#[test]
fn a_chain_of_functions_can_do_what_each_of_its_links_can() {
    let (_, pool, _) = device();
    let (parent, _physical) = parent(&pool);
    assert_eq!(parent.sub_device(4).capabilities(), Capabilities { vectors: 4, ..DYNAMIC });

    let msi = Capabilities { growth: Growth::Reserved, independent: false, multi_message: true, ..DYNAMIC };
    let (_, block, _) = device_with(msi);
    let of_block = LogicalFunction::new([at(&block, 0), at(&block, 1)]);
    assert_eq!(of_block.capabilities(), Capabilities { vectors: 2, ..msi });
    let of_both = LogicalFunction::new([at(&block, 2), at(&pool, 9), at(&pool, 10)]);
    let both =
        Capabilities { vectors: 3, growth: Growth::Reserved, independent: false, multi_message: false };
    assert_eq!(of_both.capabilities(), both);
    // A function may be the device of a pool in turn.
    assert_eq!(Pool::new(of_both).capabilities(), both);
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
    let pool = Pool::new(Restless(FakeBackend::with_capabilities(Failures::default(), DYNAMIC)));
    let mut handle = at(&pool, 3);
    assert!(matches!(handle.set_cookie(Some(Cookie(1))), Err(BackendError::NoCookies { vector: Vector(3) })));
    handle.set_cookie(None).unwrap();
}

#[test]
fn everything_may_be_dropped_in_any_order() {
    let orders = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 3, 0, 4, 2], [2, 0, 4, 1, 3], [3, 4, 1, 2, 0]];
    for order in orders {
        let (device, pool, _) = device();
        let (parent, mut physical) = parent(&pool);
        let mut sub_device = parent.sub_device(4);
        let own = [eventfd(), eventfd(), eventfd()];
        physical.bind(Vector(0), &own[0]).unwrap();
        sub_device.open(4).unwrap();
        sub_device.bind(Vector(1), &own[1]).unwrap();
        let fixed = parent.alloc_at(HostVector(7)).unwrap();
        // A device of its own for one below, on two of the sub-device's parent's.
        let nested = Pool::new(LogicalFunction::new([fixed, parent.alloc_any().unwrap()]));
        let mut below = LogicalFunction::new([at(&nested, 0)]);
        below.open(1).unwrap();
        below.bind(Vector(0), &own[2]).unwrap();
        assert_eq!(device.in_use(), (3, true));

        let view = pool.clone();
        let mut parts: [Option<Box<dyn std::any::Any>>; 5] = [
            Some(Box::new(pool)),
            Some(Box::new((parent, nested))),
            Some(Box::new(physical)),
            Some(Box::new(sub_device)),
            Some(Box::new(below)),
        ];
        for part in order {
            parts[part] = None;
        }
        assert_eq!(device.in_use(), (0, false), "{order:?}");
        assert_eq!(view.report().vectors, [], "{order:?}");
        assert_eq!(view.unsettled(), 0);
    }
}
