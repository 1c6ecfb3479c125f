//! Several functions of one VM, whose router has room for fewer messages than they have.

use std::cmp::Reverse;
use std::sync::Arc;

use vm_msi::pool::{HostVector, LogicalFunction, Pool};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsiMessage, Vector};

use crate::{Function, layout};

#[test]
fn room_goes_to_the_function_that_is_delivered_most_where_that_is_retried_first() {
    let device = FakeBackend::new(Failures::default());
    let router = Arc::new(FakeRouter::new(Failures::default()));
    router.set_capacity(0);
    let pool = Pool::new(device.clone());
    let make = |vector: u32| {
        let part = LogicalFunction::new([pool.alloc_at(HostVector(vector)).unwrap()]);
        let function = Function::new(layout(1), router.clone(), part);
        let relay = function.relay_fd().unwrap();
        let message = MsiMessage { address: 0xfee0_0000, data: 0x40 + vector };
        function.write_config(2, &[0, 0x80]);
        function.write_table(0, &message.address.to_le_bytes());
        function.write_table(8, &u64::from(message.data).to_le_bytes());
        (vector, function, relay)
    };
    let mut functions: Vec<_> = (0..3).map(make).collect();
    for (vector, times) in [(0, 1), (1, 3), (2, 2)] {
        for _ in 0..times {
            device.raise(Vector(vector));
            functions[vector as usize].1.deliver_relayed();
        }
    }
    assert_eq!(
        functions.iter().map(|(_, function, _)| function.max_relayed()).collect::<Vec<_>>(),
        [1, 3, 2]
    );

    router.set_capacity(2);
    functions.sort_by_cached_key(|(_, function, _)| Reverse(function.max_relayed()));
    functions.iter().for_each(|(_, function, _)| function.retry());
    let live = functions.iter().filter(|(_, function, _)| function.report().live == 1);
    assert_eq!(live.map(|(vector, _, _)| *vector).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(functions[0].1.max_relayed(), 0, "the kernel delivers it, and nobody counts");
}
