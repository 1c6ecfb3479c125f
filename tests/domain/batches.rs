//! Vectors that rise together, on messages that are published and on others, and vectors that end together.

use std::sync::{Arc, Mutex};

use vm_msi::msix::{Layout, TableSize};
use vm_msi::router::{Route, Router, RouterError, Signalled, Unclosed};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{Interrupt, MsixFunction};
use vmm_sys_util::eventfd::EventFd;

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture, bar, message};

/// Unmasked under Function Mask, and then let go by one write.
fn raise_together(fixture: &Fixture, vectors: impl Iterator<Item = u16>) {
    fixture.set_control(ENABLE | FUNCTION_MASK);
    for vector in vectors {
        fixture.set_message(vector, message(vector));
        fixture.set_mask(vector, 0);
    }
    fixture.set_control(ENABLE);
}

#[test]
fn vectors_that_rise_together_have_each_its_own_message_by_one_commit() {
    for published in [vec![], vec![0], vec![0, 1, 2], vec![1, 4], (0..6).collect()] {
        let fixture = Fixture::using(published.iter().copied());
        fixture.set_control(0);
        let cost = || (fixture.router.commits(), fixture.function.report().counters.attaches);
        let (commits, attaches) = cost();
        raise_together(&fixture, 0..6);
        assert_eq!(cost(), (commits + usize::from(published.len() < 6), attaches + 6), "{published:?}");
        (0..6).for_each(|vector| assert_eq!(fixture.raise(vector), [message(vector)], "{published:?}"));
    }
}

#[test]
fn of_vectors_that_rise_together_the_first_has_the_first_claim_to_room() {
    let fixture = Fixture::using([1]);
    fixture.set_control(0);
    // The room that there is has the message of the second.
    fixture.router.set_capacity(1);
    raise_together(&fixture, 0..2);
    assert_eq!(fixture.raise(0), [message(0)]);
    assert_eq!((fixture.raise(1), fixture.function.failed_steps()), (vec![], 1));
}

#[test]
fn of_vectors_that_userspace_delivers_the_busiest_has_the_first_claim_to_room() {
    for busiest in [0, 1, 2] {
        let fixture = Fixture::using([]);
        let _relay = fixture.function.relay_fd().unwrap();
        fixture.router.set_capacity(0);
        raise_together(&fixture, 0..3);
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

/// A router that notes how many eventfds it is asked to close at once, and how many to detach.
struct Noting {
    router: FakeRouter,
    closed: Mutex<Vec<usize>>,
    detached: Mutex<usize>,
}

impl Router for Noting {
    fn get(&self, interrupt: Interrupt) -> Option<Route> {
        self.router.get(interrupt)
    }
    fn get_or_publish(&self, interrupts: &[Interrupt], routes: &mut Vec<Result<Route, RouterError>>) {
        self.router.get_or_publish(interrupts, routes);
    }
    fn attach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        self.router.attach(eventfd, route)
    }
    fn detach(&self, eventfd: &EventFd, route: &Route) -> Result<(), RouterError> {
        *self.detached.lock().unwrap() += 1;
        self.router.detach(eventfd, route)
    }
    fn put(&self, route: Route) {
        self.router.put(route);
    }
    fn close(&self, attached: Vec<(EventFd, Route)>) -> Vec<Unclosed> {
        self.closed.lock().unwrap().push(attached.len());
        self.router.close(attached)
    }
    fn signal(&self, interrupt: Interrupt) -> Result<Signalled, RouterError> {
        self.router.signal(interrupt)
    }
}

/// Each detach waits for the kernel's workers, so the router is asked once for all.
#[test]
fn vectors_that_end_together_are_closed_by_one_call() {
    let router = FakeRouter::new(Failures::default());
    let router = Arc::new(Noting { router, closed: Mutex::default(), detached: Mutex::default() });
    let layout = Layout::new(TableSize::new(8).unwrap(), (bar(0), 0), (bar(0), 0x1000)).unwrap();
    let function = MsixFunction::new(layout, router.clone(), FakeBackend::new(Failures::default()));
    function.write_config(2, &ENABLE.to_le_bytes());
    for vector in 0..6 {
        function.write_table(u64::from(vector) * 16, &message(vector).address.to_le_bytes());
        function.write_table(u64::from(vector) * 16 + 8, &u64::from(message(vector).data).to_le_bytes());
    }
    // One is masked: its eventfd is attached to nothing.
    function.write_table(5 * 16 + 12, &1u32.to_le_bytes());
    assert_eq!(*router.detached.lock().unwrap(), 1);
    function.write_config(2, &0u16.to_le_bytes());
    assert_eq!((router.closed.lock().unwrap().clone(), *router.detached.lock().unwrap()), (vec![5], 1));
    assert_eq!(router.router.in_use(), (0, 0));
}
