//! Accesses of every offset, width and value, and messages that no APIC accepts. The specification leaves most of them undefined.
//! None stops the function, and none reaches registers that are not its own.

use std::sync::Arc;

use vm_msi::msix::{Bar, Layout, Owner, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vm_msi::{MsixFunction, Vector};

use crate::fixture::{ENABLE, FUNCTION_MASK, Fixture, VECTORS, bar, message};

const VALUES: [u8; 4] = [0x00, 0xff, 0xa5, 0x01];

#[test]
fn every_access_to_configuration_space_is_answered() {
    let fixture = Fixture::using([3]);
    for offset in 0..64u16 {
        for len in 0..=16 {
            for value in VALUES {
                fixture.function.write_config(offset, &vec![value; len]);
                fixture.function.read_config(offset, &mut vec![0; len]);
            }
        }
    }
    fixture.set_control(ENABLE);
    fixture.set_mask(3, 0);
    fixture.set_message(3, message(3));
    assert_eq!(fixture.raise(3), [message(3)], "the function still works");
}

#[test]
fn every_access_to_table_and_pending_bits_is_answered() {
    let fixture = Fixture::using([3]);
    let end = u64::from(VECTORS) * 16 + 32;
    for offset in (0..end).chain(u64::MAX - 20..=u64::MAX) {
        for len in 0..=17 {
            for value in VALUES {
                fixture.function.write_table(offset, &vec![value; len]);
                fixture.function.read_table(offset, &mut vec![0; len]);
                fixture.function.read_pba(offset, &mut vec![0; len]);
            }
        }
    }
    fixture.set_message(3, message(3));
    fixture.set_mask(3, 0);
    assert_eq!(fixture.raise(3), [message(3)], "the function still works");
}

#[test]
fn other_registers_of_a_shared_bar_get_exactly_their_bytes() {
    let fixture = Fixture::using([]);
    let bar = Bar::new(2).unwrap();
    let (start, end) = (0x2000u64, 0x2000 + u64::from(VECTORS) * 16);
    for offset in (start - 20..start + 4).chain(end - 20..end + 4) {
        for len in 0..=17u64 {
            let mut seen = Vec::new();
            let data = vec![0; len as usize];
            fixture.function.write_bar(bar, offset, &data, |at, part| seen.push(at..at + part.len() as u64));
            let mut read = Vec::new();
            let mut data = vec![0; len as usize];
            fixture
                .function
                .read_bar(bar, offset, &mut data, |at, part| read.push(at..at + part.len() as u64));
            assert_eq!(seen, read);
            let bytes: Vec<u64> = seen.into_iter().flatten().collect();
            let own = |at: &u64| (start..end).contains(at);
            let expected: Vec<u64> = (offset..offset + len).filter(|at| !own(at)).collect();
            assert_eq!(bytes, expected);
        }
    }
}

/// Table and PBA are at the same offset of two BARs, with registers around them. Xen before 85100ed78ca1 and ACRN confused them.
#[test]
fn table_and_pending_bits_at_the_same_offset_of_two_bars_are_told_apart() {
    let layout = Layout::new(TableSize::new(3).unwrap(), (bar(4), 0x800), (bar(2), 0x800)).unwrap();
    let device = FakeBackend::new(Failures::default());
    let router = Arc::new(FakeRouter::new(Failures::default()));
    let function = MsixFunction::new(layout.clone(), router, device.clone());
    function.write_config(2, &ENABLE.to_le_bytes());
    let mut heard = Vec::new();
    function.write_bar(bar(4), 0x7fc, &[0xaa; 8], |at, data| heard.push((at, data.to_vec())));
    function.write_bar(bar(4), 0x82c, &[0xbb; 8], |at, data| heard.push((at, data.to_vec())));
    function.write_bar(bar(0), 0x800, &[0xcc; 4], |at, data| heard.push((at, data.to_vec())));
    let expected = [(0x7fc, vec![0xaa; 4]), (0x830, vec![0xbb; 4]), (0x800, vec![0xcc; 4])];
    assert_eq!(heard, expected, "what is the device's");

    device.raise(Vector(2));
    let mut data = [0xee; 8];
    function.read_bar(bar(2), 0x800, &mut data, |_, _| panic!("the device is not asked"));
    assert_eq!(u64::from_le_bytes(data), 1 << 2);
    let mut data = [0; 16];
    function.read_bar(bar(2), 0x7fc, &mut data, |at, data| data.fill(at as u8));
    assert_eq!(data, [0xfc, 0xfc, 0xfc, 0xfc, 4, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8]);
    let mut data = [0; 4];
    function.read_bar(bar(4), 0x800, &mut data, |_, _| panic!("the device is not asked"));
    assert_eq!(u32::from_le_bytes(data), 0xaaaa_aaaa, "the first register of the table");
    let owners: Vec<_> = layout.split(bar(4), 0x82f, 2).collect();
    assert_eq!(owners, [(Owner::Table(0x2f), 0..1), (Owner::Device(0x830), 1..2)]);
}

#[test]
fn a_write_across_an_edge_of_message_control_changes_the_bytes_of_message_control() {
    for (offset, data) in [(3, vec![0xc0, 0xff]), (1, vec![0xff, 0, 0xc0]), (1, vec![0, 0, 0xc0, 0xff, 0xff])]
    {
        let fixture = Fixture::after_reset();
        fixture.function.write_config(offset, &data);
        assert_eq!(fixture.control(), 0xc000 | (VECTORS - 1), "{data:x?} at {offset}");
        assert_eq!((fixture.config(0) & 0xffff, fixture.config(4)), (0x11, 0x2000 | 2));
    }
    let fixture = Fixture::after_reset();
    fixture.set_control(ENABLE | FUNCTION_MASK);
    fixture.function.write_config(1, &[0xff, 0]);
    assert_eq!(fixture.control() & 0xc000, 0xc000, "the low byte alone");
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
fn what_lies_beyond_the_table_reads_zero_and_ignores_writes() {
    let fixture = Fixture::after_reset();
    fixture.set_register(VECTORS, 0, 0xffff_ffff);
    let mut data = [0xff; 4];
    fixture.function.read_table(u64::from(VECTORS) * 16, &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn a_message_that_no_apic_takes_is_not_sent_and_waits() {
    let fixture = Fixture::using([3]);
    // Vectors below 16 are the processor's exceptions.
    fixture.set_register(3, 2, 0x0f);
    assert_eq!(fixture.raise(3), []);
    assert_eq!(fixture.function.report().counters.invalid_messages, 1);
    fixture.set_register(3, 2, message(3).data);
    assert_eq!(fixture.delivered(), [message(3)]);
}
