//! Masking of MSI-X vectors: PCIe r6 §6.1.4.5, Function Mask (§7.7.2.2) and Mask bits (§7.7.2.8).

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture, VECTORS, message};

/// PCIe r6 §6.1.4.5: While a vector is masked, the function sends no message for it and sets its Pending bit instead.
#[test]
fn a_masked_vector_sends_nothing_and_sets_its_pending_bit() {
    let fixture = Fixture::using([3]);
    fixture.set_mask(3, 1);
    assert_eq!(fixture.raise(3), []);
    assert_eq!(fixture.pba(), 1 << 3);
}

/// PCIe r6 §6.1.4.5: The Pending bit is set also for an entry that software has left in its default state, masked.
#[test]
fn a_vector_that_was_never_unmasked_sets_its_pending_bit() {
    let fixture = Fixture::using([]);
    assert_eq!(fixture.raise(66), []);
    assert_eq!(fixture.pba(), 1 << 66);
}

/// PCIe r6 §6.1.4.5: When software unmasks a vector whose Pending bit is set, the function sends the message and clears the
/// bit.
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

/// PCIe r6 §6.1.4.5: Unmasking sends a message only if the Pending bit is set.
#[test]
fn unmasking_a_vector_with_nothing_pending_sends_nothing() {
    let fixture = Fixture::using([3]);
    fixture.set_mask(3, 1);
    fixture.set_mask(3, 0);
    assert_eq!(fixture.delivered(), []);
}

/// PCIe r6 §7.7.2.2: While Function Mask is set, every vector is masked, whatever its own Mask bit is.
#[test]
fn function_mask_masks_every_vector_whatever_its_own_bit_says() {
    let fixture = Fixture::using(0..VECTORS);
    fixture.set_control(ENABLE | FUNCTION_MASK);
    assert!((0..VECTORS).all(|vector| fixture.raise(vector).is_empty()));
    assert_eq!(fixture.pba(), (1 << VECTORS) - 1);
}

/// PCIe r6 §7.7.2.2: Setting or clearing Function Mask does not change the Mask bits of the vectors.
#[test]
fn function_mask_does_not_change_the_mask_bits() {
    let fixture = Fixture::using([3]);
    fixture.set_control(ENABLE | FUNCTION_MASK);
    assert_eq!((fixture.register(3, 3), fixture.register(4, 3)), (0, 1));
    fixture.set_control(ENABLE);
    assert_eq!((fixture.register(3, 3), fixture.register(4, 3)), (0, 1));
}

/// PCIe r6 §6.1.4.5: Clearing Function Mask may require many messages: one for each unmasked vector whose Pending bit is set.
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

/// PCIe r6 §7.7.2.2: While Function Mask is clear, the Mask bit of a vector decides whether it is masked.
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

/// PCIe r6 §7.7.2.8: A Mask bit prohibits messages by its own entry only.
#[test]
fn masking_one_vector_does_not_mask_another() {
    let fixture = Fixture::using([3, 4]);
    fixture.set_mask(3, 1);
    assert_eq!(fixture.raise(4), [message(4)]);
}

/// PCIe r6 §6.1.4.5: When software unmasks an entry by clearing Function Mask, the function uses the address and data that the
/// entry has then.
#[test]
fn a_message_that_changes_under_function_mask_is_sent_as_it_is_when_that_is_cleared() {
    let fixture = Fixture::using([3]);
    fixture.set_control(ENABLE | FUNCTION_MASK);
    fixture.raise(3);
    fixture.set_message(3, message(9));
    fixture.set_control(ENABLE);
    assert_eq!(fixture.delivered(), [message(9)]);
    assert_eq!(fixture.raise(3), [message(9)]);
}

/// PCIe r6 §6.1.4.5: An interrupt event that occurs while the vector is masked again sets the Pending bit again.
#[test]
fn an_interrupt_after_the_pending_message_was_sent_sets_the_pending_bit_again() {
    let fixture = Fixture::using([3]);
    for _ in 0..2 {
        fixture.set_mask(3, 1);
        assert_eq!((fixture.raise(3), fixture.pba()), (vec![], 1 << 3));
        fixture.set_mask(3, 0);
        assert_eq!((fixture.delivered(), fixture.pba()), (vec![message(3)], 0));
    }
}
