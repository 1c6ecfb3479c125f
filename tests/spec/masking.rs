//! Masking, PCIe r6 §6.1.4.5 and §7.7.2.2 (Function Mask).

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture, VECTORS, message};

#[test]
fn a_masked_vector_sends_nothing_and_sets_its_pending_bit() {
    let fixture = Fixture::using([3]);
    fixture.set_mask(3, 1);
    assert_eq!(fixture.raise(3), []);
    assert_eq!(fixture.pba(), 1 << 3);
}

#[test]
fn a_vector_that_was_never_unmasked_sets_its_pending_bit() {
    let fixture = Fixture::using([]);
    assert_eq!(fixture.raise(66), []);
    assert_eq!(fixture.pba(), 1 << 66);
}

#[test]
fn unmasking_a_pending_vector_sends_its_message_once_and_clears_the_bit() {
    let fixture = Fixture::using([3]);
    fixture.set_mask(3, 1);
    fixture.raise(3);
    fixture.raise(3);
    fixture.set_mask(3, 0);
    assert_eq!(fixture.delivered(), [message(3)]);
    assert_eq!(fixture.pba(), 0);
    fixture.set_mask(3, 1);
    fixture.set_mask(3, 0);
    assert_eq!(fixture.delivered(), []);
}

#[test]
fn unmasking_a_vector_with_nothing_pending_sends_nothing() {
    let fixture = Fixture::using([3]);
    fixture.set_mask(3, 1);
    fixture.set_mask(3, 0);
    assert_eq!(fixture.delivered(), []);
}

#[test]
fn function_mask_masks_every_vector_whatever_its_own_bit_says() {
    let fixture = Fixture::using(0..VECTORS);
    fixture.set_control(ENABLE | FUNCTION_MASK);
    assert!((0..VECTORS).all(|vector| fixture.raise(vector).is_empty()));
    assert_eq!(fixture.pba(), (1 << VECTORS) - 1);
}

#[test]
fn function_mask_does_not_change_the_mask_bits() {
    let fixture = Fixture::using([3]);
    fixture.set_control(ENABLE | FUNCTION_MASK);
    assert_eq!((fixture.register(3, 3), fixture.register(4, 3)), (0, 1));
    fixture.set_control(ENABLE);
    assert_eq!((fixture.register(3, 3), fixture.register(4, 3)), (0, 1));
}

#[test]
fn clearing_function_mask_sends_what_is_pending_on_every_unmasked_vector() {
    let fixture = Fixture::using([3, 4, 65]);
    fixture.set_control(ENABLE | FUNCTION_MASK);
    fixture.set_mask(4, 1);
    [3, 4, 65].iter().for_each(|vector| drop(fixture.raise(*vector)));
    fixture.set_control(ENABLE);
    assert_eq!(fixture.delivered(), [message(3), message(65)]);
    assert_eq!(fixture.pba(), 1 << 4);
}

#[test]
fn a_vector_that_is_unmasked_under_function_mask_is_used_when_that_is_cleared() {
    let fixture = Fixture::after_reset();
    fixture.set_control(ENABLE | FUNCTION_MASK);
    fixture.set_message(3, message(3));
    fixture.set_mask(3, 0);
    assert_eq!(fixture.raise(3), []);
    fixture.set_control(ENABLE);
    assert_eq!(fixture.delivered(), [message(3)]);
}

#[test]
fn masking_one_vector_does_not_mask_another() {
    let fixture = Fixture::using([3, 4]);
    fixture.set_mask(3, 1);
    assert_eq!(fixture.raise(4), [message(4)]);
}
