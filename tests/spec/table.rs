//! The table, PCIe r6 §7.7.2.3 (access), §7.7.2.5 (entries) and §6.1.4.2 (configuring them).

use vm_msi::MsiMessage;

use crate::fixture::{Fixture, VECTORS, message};

#[test]
fn every_entry_is_masked_after_reset() {
    let fixture = Fixture::after_reset();
    assert!((0..VECTORS).all(|vector| fixture.register(vector, 3) == 1));
    fixture.set_mask(7, 0);
    fixture.reset();
    assert_eq!(fixture.register(7, 3), 1);
}

#[test]
fn the_low_two_bits_of_an_address_are_zero_after_reset() {
    let fixture = Fixture::after_reset();
    assert!((0..VECTORS).all(|vector| fixture.register(vector, 0) & 3 == 0));
}

#[test]
fn address_upper_address_and_data_are_written_and_read_back() {
    let fixture = Fixture::after_reset();
    for register in 0..3 {
        fixture.set_register(VECTORS - 1, register, 0xa5a5_0000 | register as u32);
        assert_eq!(fixture.register(VECTORS - 1, register), 0xa5a5_0000 | register as u32);
    }
}

#[test]
fn reserved_bits_of_vector_control_stay_zero() {
    let fixture = Fixture::after_reset();
    fixture.set_mask(3, 0xffff_fffe);
    assert_eq!(fixture.register(3, 3), 0);
}

#[test]
fn an_aligned_qword_access_reads_and_writes_two_registers() {
    let fixture = Fixture::after_reset();
    fixture.function.write_table(3 * 16, &0x0000_0001_fee0_2000u64.to_le_bytes());
    fixture.function.write_table(3 * 16 + 8, &0x0000_0000_0000_0033u64.to_le_bytes());
    assert_eq!([0, 1, 2, 3].map(|r| fixture.register(3, r)), [0xfee0_2000, 1, 0x33, 0]);
    let mut data = [0; 8];
    fixture.function.read_table(3 * 16, &mut data);
    assert_eq!(u64::from_le_bytes(data), 0x0000_0001_fee0_2000);
}

#[test]
fn a_write_of_one_entry_disturbs_no_other() {
    let fixture = Fixture::after_reset();
    fixture.function.write_table(3 * 16, &[0xff; 16]);
    assert_eq!([2, 4].map(|v| [0, 1, 2, 3].map(|r| fixture.register(v, r))), [[0, 0, 0, 1]; 2]);
}

#[test]
fn what_lies_beyond_the_table_reads_zero_and_ignores_writes() {
    let fixture = Fixture::after_reset();
    fixture.set_register(VECTORS, 0, 0xffff_ffff);
    assert_eq!(fixture.register(VECTORS, 0), 0);
}

#[test]
fn a_vector_sends_the_message_of_its_own_entry() {
    let fixture = Fixture::using([3, 4, VECTORS - 1]);
    assert_eq!(fixture.raise(4), [message(4)]);
    assert_eq!(fixture.raise(VECTORS - 1), [message(VECTORS - 1)]);
}

#[test]
fn several_entries_may_have_the_same_message() {
    let fixture = Fixture::using([3, 4]);
    fixture.set_message(4, message(3));
    assert_eq!(fixture.raise(4), [message(3)]);
    fixture.set_mask(3, 1);
    assert_eq!(fixture.raise(4), [message(3)], "masking one does not mask the other");
}

#[test]
fn a_message_that_changes_while_masked_is_sent_as_it_is_when_unmasked() {
    let fixture = Fixture::using([3]);
    fixture.set_mask(3, 1);
    fixture.raise(3);
    fixture.set_message(3, message(9));
    fixture.set_mask(3, 0);
    assert_eq!(fixture.delivered(), [message(9)]);
}

#[test]
fn a_message_that_changes_while_unmasked_is_not_sent_as_it_was() {
    let fixture = Fixture::using([3]);
    fixture.set_register(3, 2, 0x77);
    assert_eq!(fixture.raise(3), [MsiMessage { data: 0x77, ..message(3) }]);
}

#[test]
fn a_message_that_no_apic_takes_is_not_sent_and_waits() {
    let fixture = Fixture::using([3]);
    // Vectors below 16 are the processor's.
    fixture.set_register(3, 2, 0x0f);
    assert_eq!(fixture.raise(3), []);
    assert_eq!(fixture.function.report().counters.invalid_messages, 1);
    fixture.set_register(3, 2, message(3).data);
    assert_eq!(fixture.delivered(), [message(3)]);
}
