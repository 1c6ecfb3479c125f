//! Parents and their sub-devices: refusals, entries on demand, chains, and teardown in any order.

use super::*;

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
fn a_sub_device_takes_an_entry_when_it_is_bound_and_gives_it_back_when_it_is_released() {
    let (device, pool, _) = device();
    let (parent, _physical) = parent(&pool);
    let mut sub_device = parent.sub_device(4);
    let vector_map = sub_device.vector_map();
    sub_device.open(4).unwrap();
    assert_eq!(host(vector_map.get(Vector(2))), None);

    let own = eventfd();
    sub_device.bind(Vector(2), &own).unwrap();
    assert_eq!(host(vector_map.get(Vector(2))), Some(1), "0 is the parent's");
    device.raise(Vector(1));
    assert_eq!(taken(&own), 1);
    assert!(matches!(parent.alloc_at(HostVector(1)), Err(PoolError::InUse { .. })), "it is the child's");

    sub_device.unbind(Vector(2)).unwrap();
    assert_eq!(host(vector_map.get(Vector(2))), Some(1), "it may be bound again, with another cookie");
    sub_device.release(Vector(2));
    assert_eq!(host(vector_map.get(Vector(2))), None);
    assert_eq!(parent.alloc_at(HostVector(1)).unwrap().host_vector(), HostVector(1));
}

#[test]
fn a_sub_device_keeps_an_entry_that_an_interrupt_waits_for_until_it_has_come_or_is_forgotten() {
    let device = FakeBackend::with_capabilities(Failures::default(), DYNAMIC);
    let pool = Pool::new(device.clone().signals_on_unbind());
    let (parent, _physical) = parent(&pool);
    let mut sub_device = parent.sub_device(1);
    let vector_map = sub_device.vector_map();
    let own = eventfd();
    for whole in [false, true] {
        sub_device.open(1).unwrap();
        sub_device.bind(Vector(0), &own).unwrap();
        let host = vector_map.get(Vector(0)).unwrap();
        if whole { sub_device.close() } else { sub_device.unbind(Vector(0)) }.unwrap();
        assert_eq!(sub_device.pending(0), 1);
        assert_eq!(vector_map.get(Vector(0)).as_ref(), Some(&host));
        assert_ne!(parent.alloc_any().unwrap().host_vector(), host.vector);

        sub_device.open(1).unwrap();
        sub_device.bind(Vector(0), &own).unwrap();
        assert_eq!(taken(&own), 1);
        sub_device.close().unwrap();
        device.forget(Vector(host.vector.0));
        sub_device.open(1).unwrap();
        assert_eq!(vector_map.get(Vector(0)), None, "given back");
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
    let both = Capabilities { vectors: 3, multi_message: false, ..msi };
    assert_eq!(of_both.capabilities(), both);
    // A function may be the device of a pool in turn.
    assert_eq!(Pool::new(of_both).capabilities(), both);
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
        assert_eq!(view.failed_steps(), 0);
    }
}
