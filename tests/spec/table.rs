//! The table: how software accesses it (PCIe r6 §7.7.2), its registers (§7.7.2.5 to §7.7.2.8) and its messages (§6.1.4).

use crate::fixture::{Fixture, VECTORS, message};

/// PCIe r6 §7.7.2.8: The Mask bit is 1 by default: the entry is masked.
#[test]
fn every_entry_is_masked_after_reset() {
    let fixture = Fixture::after_reset();
    assert!((0..VECTORS).all(|vector| fixture.register(vector, 3) == 1));
    fixture.set_mask(7, 0);
    fixture.reset();
    assert_eq!(fixture.register(7, 3), 1);
}

/// PCIe r6 §7.7.2.5: Bits 1:0 of Message Address are 00b by default.
#[test]
fn the_low_two_bits_of_an_address_are_zero_after_reset() {
    let fixture = Fixture::after_reset();
    assert!((0..VECTORS).all(|vector| fixture.register(vector, 0) & 3 == 0));
}

/// PCIe r6 §7.7.2.7: Message Data is read-write, as are Message Address (§7.7.2.5) and Message Upper Address (§7.7.2.6).
#[test]
fn address_upper_address_and_data_are_written_and_read_back() {
    let fixture = Fixture::after_reset();
    for register in 0..3 {
        fixture.set_register(VECTORS - 1, register, 0xa5a5_0000 | register as u32);
        assert_eq!(fixture.register(VECTORS - 1, register), 0xa5a5_0000 | register as u32);
    }
}

/// PCIe r6 §7.7.2.8: The reserved bits of Vector Control are 0, and may be read-only.
#[test]
fn reserved_bits_of_vector_control_stay_zero() {
    let fixture = Fixture::after_reset();
    fixture.set_mask(3, 0xffff_fffe);
    assert_eq!(fixture.register(3, 3), 0);
}

/// PCIe r6 §7.7.2: Software accesses the table by aligned DWORDs or aligned QWORDs.
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

/// PCIe r6 §7.7.2: Entry k begins at the base of the table plus 16k.
#[test]
fn a_write_of_one_entry_disturbs_no_other() {
    let fixture = Fixture::after_reset();
    fixture.function.write_table(3 * 16, &[0xff; 8]);
    fixture.function.write_table(3 * 16 + 8, &[0xff; 8]);
    assert_eq!([2, 4].map(|v| [0, 1, 2, 3].map(|r| fixture.register(v, r))), [[0, 0, 0, 1]; 2]);
}

/// PCIe r6 §6.1.4.4: The message of MSI-X is the address and data of the entry. The function does not modify the low bits of
/// the data.
#[test]
fn a_vector_sends_the_message_of_its_own_entry() {
    let fixture = Fixture::using([3, 4, VECTORS - 1]);
    assert_eq!(fixture.raise(4), [message(4)]);
    assert_eq!(fixture.raise(VECTORS - 1), [message(VECTORS - 1)]);
}

/// PCIe r6 §6.1.4.2: Software may configure several entries with the same message. Masking one of them does not mask the others
/// (§7.7.2.8).
#[test]
fn several_entries_may_have_the_same_message() {
    let fixture = Fixture::using([3, 4]);
    fixture.set_message(4, message(3));
    assert_eq!(fixture.raise(4), [message(3)]);
    fixture.set_mask(3, 1);
    assert_eq!(fixture.raise(4), [message(3)], "masking one does not mask the other");
}

/// PCIe r6 §6.1.4.5: When software unmasks an entry by clearing its Mask bit, the function uses the address and data that the
/// entry has then.
#[test]
fn a_message_that_changes_while_masked_is_sent_as_it_is_when_unmasked() {
    let fixture = Fixture::using([3]);
    fixture.set_mask(3, 1);
    fixture.raise(3);
    fixture.set_message(3, message(9));
    fixture.set_mask(3, 0);
    assert_eq!(fixture.delivered(), [message(9)]);
}
