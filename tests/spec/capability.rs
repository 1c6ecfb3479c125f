//! The capability in configuration space, PCIe r6 §7.7.2.1 to §7.7.2.4.

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture, VECTORS, message};

/// PCIe r6 §7.7.2.1: The Capability ID is 11h. It is read-only.
#[test]
fn capability_id_is_11h_and_cannot_be_written() {
    let fixture = Fixture::after_reset();
    fixture.function.write_config(0, &[0xff]);
    assert_eq!(fixture.config(0) & 0xff, 0x11);
}

/// PCIe r6 §7.7.2.2: Table Size is the number of entries minus one. It is read-only.
#[test]
fn table_size_is_the_number_of_entries_less_one_and_cannot_be_written() {
    let fixture = Fixture::after_reset();
    fixture.set_control(0x07ff);
    assert_eq!(fixture.control() & 0x07ff, VECTORS - 1);
}

/// PCIe r6 §7.7.2.2: Bits 13:11 are reserved. They read 0, and a write does not change them.
#[test]
fn reserved_bits_of_message_control_read_zero() {
    let fixture = Fixture::after_reset();
    fixture.set_control(0x3800);
    assert_eq!(fixture.control() & 0x3800, 0);
}

/// PCIe r6 §7.7.2.2: Function Mask and MSI-X Enable are 0 by default.
#[test]
fn function_mask_and_enable_are_clear_after_reset() {
    let fixture = Fixture::after_reset();
    assert_eq!(fixture.control() & (FUNCTION_MASK | ENABLE), 0);
    fixture.set_control(FUNCTION_MASK | ENABLE);
    fixture.reset();
    assert_eq!(fixture.control() & (FUNCTION_MASK | ENABLE), 0);
}

/// PCIe r6 §7.7.2.2: Function Mask and MSI-X Enable are read-write.
#[test]
fn function_mask_and_enable_are_written_and_read_back() {
    let fixture = Fixture::after_reset();
    for value in [FUNCTION_MASK, ENABLE, FUNCTION_MASK | ENABLE, 0] {
        fixture.set_control(value);
        assert_eq!(fixture.control() & (FUNCTION_MASK | ENABLE), value);
    }
}

/// PCIe r6 §2.2.5: A configuration write changes only the bytes that its byte enables select.
#[test]
fn each_byte_of_message_control_may_be_written_alone() {
    let fixture = Fixture::after_reset();
    fixture.function.write_config(3, &[0xc0]);
    assert_eq!(fixture.control() & 0xc000, 0xc000);
    fixture.function.write_config(2, &[0x00]);
    assert_eq!(fixture.control() & 0xc000, 0xc000, "the other byte is not disturbed");
}

/// PCIe r6 §7.7.2.1: A DWORD write to the header changes Message Control and leaves the read-only Capability ID as it is.
#[test]
fn message_control_may_be_written_with_the_dword_that_it_is_in() {
    let fixture = Fixture::after_reset();
    fixture.function.write_config(0, &0x8000_ffffu32.to_le_bytes());
    assert_eq!(fixture.control(), ENABLE | (VECTORS - 1));
    assert_eq!(fixture.config(0) & 0xffff, 0x0011);
}

/// PCIe r6 §2.2.5: A configuration write with byte enables for read-only bytes alone does not change Message Control.
#[test]
fn a_write_to_the_read_only_bytes_changes_no_bit_of_message_control() {
    let fixture = Fixture::using([3]);
    fixture.set_control(ENABLE | FUNCTION_MASK);
    for (offset, bytes) in [(0, 1), (1, 1), (0, 2), (2, 1), (0, 3), (1, 2), (4, 8), (4, 1), (11, 1)] {
        fixture.function.write_config(offset, &vec![0; bytes]);
        assert_eq!(fixture.control() & 0xc000, 0xc000, "{bytes} bytes at {offset}");
    }
    assert_eq!((fixture.raise(3), fixture.pba()), (vec![], 1 << 3), "Function Mask holds");
    fixture.function.write_config(3, &[0x80]);
    assert_eq!((fixture.delivered(), fixture.pba()), (vec![message(3)], 0));
}

/// PCIe r6 §7.7.2.3: Table Offset and Table BIR say where the table is, and PBA Offset and PBA BIR (§7.7.2.4) where the PBA is.
/// They are read-only.
#[test]
fn table_and_pba_offsets_and_bars_read_as_placed_and_cannot_be_written() {
    let fixture = Fixture::after_reset();
    fixture.function.write_config(4, &[0xff; 8]);
    assert_eq!(fixture.config(4), 0x2000 | 2);
    assert_eq!(fixture.config(8), 0x18 | 4);
}

/// PCIe r6 §7.7.2.2: A function whose MSI-X Enable is clear must not request service by MSI-X.
#[test]
fn a_function_with_msi_x_disabled_sends_no_message() {
    let fixture = Fixture::using([5]);
    fixture.set_control(0);
    assert_eq!(fixture.raise(5), []);
}

/// PCIe r6 §6.1.4.2: Software may fill in the table before it sets MSI-X Enable.
#[test]
fn entries_that_were_written_before_msi_x_is_enabled_are_used_when_it_is() {
    let fixture = Fixture::after_reset();
    fixture.set_message(5, message(5));
    fixture.set_mask(5, 0);
    fixture.set_control(ENABLE);
    assert_eq!(fixture.raise(5), [message(5)]);
}
