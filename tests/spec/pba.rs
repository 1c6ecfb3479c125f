//! The Pending Bit Array: how software accesses it (PCIe r6 §7.7.2), and its bits (§7.7.2.9).

use crate::fixture::{Fixture, VECTORS};

/// PCIe r6 §7.7.2.9: Each Pending bit is 0 by default.
#[test]
fn no_bit_is_pending_after_reset() {
    let fixture = Fixture::using([]);
    fixture.raise(3);
    fixture.reset();
    assert_eq!(fixture.pba(), 0);
}

/// PCIe r6 §7.7.2.9: Pending bits without a table entry are reserved. They are 0 by default.
#[test]
fn bits_beyond_the_table_are_zero() {
    let fixture = Fixture::using([]);
    (0..VECTORS).for_each(|vector| drop(fixture.raise(vector)));
    assert_eq!(fixture.pba(), (1 << VECTORS) - 1);
}

/// PCIe r6 §7.7.2: The Pending bit of entry k is bit k mod 64 of QWORD k div 64.
#[test]
fn each_vector_has_the_bit_of_its_number() {
    for vector in [0, 31, 32, 63, 64, 69] {
        let fixture = Fixture::using([]);
        fixture.raise(vector);
        assert_eq!(fixture.pba(), 1 << vector);
    }
}

/// PCIe r6 §7.7.2: Software may read the PBA by DWORDs: the bit of entry k is bit k mod 32 of DWORD k div 32.
#[test]
fn dwords_and_qwords_read_the_same_bits() {
    let fixture = Fixture::using([]);
    [0, 33, 64].iter().for_each(|vector| drop(fixture.raise(*vector)));
    let dword = |offset| {
        let mut data = [0; 4];
        fixture.function.read_pba(offset, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!([0, 4, 8, 12, 16].map(dword), [1, 2, 1, 0, 0]);
}

/// PCIe r6 §7.7.2.9: Pending bits may be read-only.
#[test]
fn software_cannot_write_pending_bits() {
    let fixture = Fixture::using([]);
    fixture.raise(3);
    let bar = fixture.function.layout().pba().bar;
    fixture.function.write_bar(bar, 0x18, &[0; 8], |_, _| panic!("the pending bits are not the device's"));
    assert_eq!(fixture.pba(), 1 << 3);
}

/// PCIe r6 §7.7.2.9: A Pending bit is set as long as the function has a pending message for the entry.
#[test]
fn reading_takes_nothing() {
    let fixture = Fixture::using([3]);
    fixture.set_mask(3, 1);
    fixture.raise(3);
    assert_eq!((fixture.pba(), fixture.pba()), (1 << 3, 1 << 3));
    fixture.set_mask(3, 0);
    assert_eq!(fixture.delivered().len(), 1);
}
