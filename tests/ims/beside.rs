//! MSI-X and IMS of one device at once, and several stores: each has its own vectors of the device.

use std::sync::Arc;

use vm_msi::ims::ControlFormat;
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::pool::{HostVector, LogicalFunction, Pool};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{ImsFunction, MsiMessage, MsixFunction, Vector};

use crate::fixture::{inverted, layout, message};

fn part(pool: &Pool, vectors: std::ops::Range<u32>) -> LogicalFunction {
    LogicalFunction::new(vectors.map(|vector| pool.alloc_at(HostVector(vector)).unwrap()))
}

#[test]
fn msix_and_two_stores_of_one_device_deliver_their_own_and_end_on_their_own() {
    let failures = Failures::default();
    let router = Arc::new(FakeRouter::new(failures.clone()));
    let device = FakeBackend::new(failures);
    let pool = Pool::new(device.clone());
    let bar = Bar::new(0).unwrap();
    let table = Layout::new(TableSize::new(2).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
    let msix = MsixFunction::try_new(table, router.clone(), part(&pool, 0..2)).unwrap();
    let store = |format, vectors| {
        ImsFunction::try_new(layout(4, format), router.clone(), part(&pool, vectors)).unwrap()
    };
    let stores = [store(ControlFormat::DSA, 2..6), store(inverted(), 6..10)];

    let entry = |slot: u32, control: u32| {
        let MsiMessage { address, data } = message(slot);
        [address.to_le_bytes(), (u64::from(control) << 32 | u64::from(data)).to_le_bytes()].concat()
    };
    msix.write_config(2, &0x8000u16.to_le_bytes());
    msix.write_table(16, &entry(1, 0));
    stores[0].write_slots(3 * 16, &entry(2, 0));
    stores[1].write_slots(0, &entry(3, 1 << 31));
    let raise = |vector| {
        device.raise(Vector(vector));
        router.pump();
        router.take_delivered()
    };
    assert_eq!([1, 5, 6].map(raise), [1, 2, 3].map(|slot| vec![message(slot)]));

    stores[0].reset(|| device.forget(Vector(5)));
    assert_eq!([1, 5, 6].map(raise), [vec![message(1)], vec![], vec![message(3)]]);
    msix.write_config(2, &0u16.to_le_bytes());
    assert_eq!([1, 6].map(raise), [vec![], vec![message(3)]]);
    assert_eq!(device.in_use(), (1, true));
    drop(stores);
    assert_eq!((device.in_use(), router.in_use()), ((0, false), (0, 0)));
}
