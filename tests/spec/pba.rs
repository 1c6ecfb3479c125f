//! The pending bit array, PCIe r6 §7.7.2.4 (access) and §7.7.2.7.

use crate::fixture::{Fixture, VECTORS};

#[test]
fn no_bit_is_pending_after_reset() {
    let fixture = Fixture::using([]);
    fixture.raise(3);
    fixture.reset();
    assert_eq!(fixture.pba(), 0);
}

#[test]
fn bits_beyond_the_table_are_zero() {
    let fixture = Fixture::using([]);
    (0..VECTORS).for_each(|vector| drop(fixture.raise(vector)));
    assert_eq!(fixture.pba(), (1 << VECTORS) - 1);
}

#[test]
fn what_lies_beyond_the_pending_bits_reads_zero_and_is_not_asked_of_the_device() {
    let fixture = Fixture::using([]);
    for offset in [2048 / 8, 1 << 20, u64::from(u32::MAX) * 8, u64::MAX - 7] {
        let mut data = [0xff; 8];
        fixture.function.read_pba(offset, &mut data);
        assert_eq!(data, [0; 8], "{offset:#x}");
    }
}

#[test]
fn each_vector_has_the_bit_of_its_number() {
    for vector in [0, 31, 32, 63, 64, 69] {
        let fixture = Fixture::using([]);
        fixture.raise(vector);
        assert_eq!(fixture.pba(), 1 << vector);
    }
}

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

#[test]
fn software_cannot_write_pending_bits() {
    let fixture = Fixture::using([]);
    fixture.raise(3);
    let bar = fixture.function.layout().pba().bar;
    fixture.function.write_bar(bar, 0x18, &[0; 8], |_, _| panic!("the pending bits are not the device's"));
    assert_eq!(fixture.pba(), 1 << 3);
}

#[test]
fn reading_takes_nothing() {
    let fixture = Fixture::using([3]);
    fixture.set_mask(3, 1);
    fixture.raise(3);
    assert_eq!((fixture.pba(), fixture.pba()), (1 << 3, 1 << 3));
    fixture.set_mask(3, 0);
    assert_eq!(fixture.delivered().len(), 1);
}
