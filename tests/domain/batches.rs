//! Vectors that become live in one access, on published messages and on new ones, and vectors that are closed in one access.

use std::sync::{Arc, Mutex};

use vm_msi::MsixFunction;
use vm_msi::msix::{Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend};

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture, bar, message};
use crate::router::{HookedRouter, HostCall};

/// Unmasks the vectors under Function Mask, and then clears Function Mask by one write.
fn unmask_together(fixture: &Fixture, vectors: impl Iterator<Item = u16>) {
    fixture.set_control(ENABLE | FUNCTION_MASK);
    for vector in vectors {
        fixture.set_message(vector, message(vector));
        fixture.set_mask(vector, 0);
    }
    fixture.set_control(ENABLE);
}

#[test]
fn vectors_that_become_live_together_get_their_messages_by_one_commit() {
    for published in [vec![], vec![0], vec![0, 1, 2], vec![1, 4], (0..6).collect()] {
        let fixture = Fixture::using(published.iter().copied());
        fixture.set_control(0);
        let cost = || (fixture.router.commits(), fixture.function.report().counters.attaches);
        let (commits, attaches) = cost();
        unmask_together(&fixture, 0..6);
        assert_eq!(cost(), (commits + usize::from(published.len() < 6), attaches + 6), "{published:?}");
        (0..6).for_each(|vector| assert_eq!(fixture.raise(vector), [message(vector)], "{published:?}"));
    }
}

#[test]
fn of_vectors_that_become_live_together_the_first_gets_the_last_route() {
    let fixture = Fixture::using([1]);
    fixture.set_control(0);
    // The room that there is has the message of the second.
    fixture.router.set_capacity(1);
    unmask_together(&fixture, 0..2);
    assert_eq!(fixture.raise(0), [message(0)]);
    assert_eq!((fixture.raise(1), fixture.function.failed_steps()), (vec![], 1));
}

#[test]
fn of_relayed_vectors_the_busiest_gets_the_next_free_route() {
    for busiest in [0, 1, 2] {
        let fixture = Fixture::using([]);
        let _relay = fixture.function.relay_fd().unwrap();
        fixture.router.set_capacity(0);
        unmask_together(&fixture, 0..3);
        for vector in [0, 1, 2, busiest, busiest] {
            fixture.raise(vector);
            fixture.function.deliver_relayed();
            assert_eq!(fixture.delivered(), [message(vector)]);
        }
        assert_eq!(fixture.function.max_relayed(), 3);
        fixture.router.set_capacity(1);
        fixture.function.retry();
        assert_eq!(fixture.raise(busiest), [message(busiest)], "by the kernel");
        assert_eq!((fixture.function.report().live, fixture.function.report().relayed), (1, 2));
    }
}

/// Each detach waits for the kernel's workers. The domain therefore makes one call for all eventfds.
#[test]
fn vectors_that_are_disabled_together_are_closed_by_one_call() {
    let closed = Arc::new(Mutex::new(Vec::new()));
    let records = closed.clone();
    let router = Arc::new(HookedRouter::new(move |call| {
        if let HostCall::Close(eventfds) = call {
            records.lock().unwrap().push(eventfds);
        }
    }));
    let layout = Layout::new(TableSize::new(8).unwrap(), (bar(0), 0), (bar(0), 0x1000)).unwrap();
    let function = MsixFunction::new(layout, router.clone(), FakeBackend::new(Failures::default()));
    function.write_config(2, &ENABLE.to_le_bytes());
    for vector in 0..6 {
        function.write_table(u64::from(vector) * 16, &message(vector).address.to_le_bytes());
        function.write_table(u64::from(vector) * 16 + 8, &u64::from(message(vector).data).to_le_bytes());
    }
    // One is masked: its eventfd is attached to nothing.
    function.write_table(5 * 16 + 12, &1u32.to_le_bytes());
    assert_eq!(router.detached(), 1);
    function.write_config(2, &0u16.to_le_bytes());
    assert_eq!((closed.lock().unwrap().clone(), router.detached()), (vec![5], 1));
    assert_eq!(router.router.in_use(), (0, 0));
}
