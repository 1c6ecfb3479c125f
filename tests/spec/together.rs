//! Vectors that rise together, on messages that are published and on others.

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture, message};

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
    assert_eq!((fixture.raise(1), fixture.function.unsettled()), (vec![], 1));
}

#[test]
fn of_vectors_that_userspace_delivers_the_busiest_has_the_first_claim_to_room() {
    for busiest in [0, 1, 2] {
        let fixture = Fixture::using([]);
        let _relay = fixture.function.relay().unwrap();
        fixture.router.set_capacity(0);
        raise_together(&fixture, 0..3);
        for vector in [0, 1, 2, busiest, busiest] {
            fixture.raise(vector);
            fixture.function.deliver();
            assert_eq!(fixture.delivered(), [message(vector)]);
        }
        assert_eq!(fixture.function.busiest(), 3);
        fixture.router.set_capacity(1);
        fixture.function.retry();
        assert_eq!(fixture.raise(busiest), [message(busiest)], "by the kernel");
        assert_eq!((fixture.function.report().live, fixture.function.report().relayed), (1, 2));
    }
}
